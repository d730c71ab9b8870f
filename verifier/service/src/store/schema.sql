-- Version 1. Times are seconds since 1970, ids and digests are raw bytes.
-- `device` is narrow on purpose: fleet queries scan it. The statement that every evidence runs names no indexed column
-- of it; verdict, release and measurement set are written by a second statement, and only where they differ.

CREATE TABLE device (
    n          INTEGER PRIMARY KEY,
    id         BLOB NOT NULL,
    judged     INTEGER,                        -- NULL: never seen
    expires    INTEGER NOT NULL DEFAULT 0,     -- not indexed: every evidence changes it
    verdict    INTEGER NOT NULL DEFAULT 2,     -- as judged; see `verdict_number`
    mset       INTEGER REFERENCES mset (n),
    product    TEXT,
    release    TEXT,
    revoked    INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX device_id ON device (id);
CREATE INDEX device_not_affirmed ON device (verdict, id) WHERE verdict <> 0;
CREATE INDEX device_revoked ON device (id) WHERE revoked <> 0;
CREATE INDEX device_product ON device (product, release, id) WHERE product IS NOT NULL;
CREATE INDEX device_mset ON device (mset) WHERE mset IS NOT NULL;

-- What enrolment and operators said. Changes rarely.
CREATE TABLE registration (
    device       INTEGER PRIMARY KEY REFERENCES device (n),
    ak           BLOB NOT NULL,
    ak_name      BLOB NOT NULL UNIQUE,
    ek_class     INTEGER NOT NULL,
    manufacturer TEXT NOT NULL,
    first_seen   INTEGER NOT NULL,
    revoked_why  TEXT,
    revoked_at   INTEGER
);
CREATE TABLE ek (
    digest BLOB PRIMARY KEY,
    device INTEGER NOT NULL REFERENCES device (n)
) WITHOUT ROWID;
CREATE INDEX ek_device ON ek (device);

-- What the last accepted evidence left behind.
CREATE TABLE device_state (
    device   INTEGER PRIMARY KEY REFERENCES device (n),
    last     BLOB NOT NULL,      -- digest of that evidence
    state    BLOB NOT NULL,
    evidence BLOB NOT NULL,
    result   BLOB NOT NULL
);
CREATE TABLE device_cause (
    code   TEXT NOT NULL,
    device INTEGER NOT NULL REFERENCES device (n),
    PRIMARY KEY (code, device)
) WITHOUT ROWID;
CREATE INDEX device_cause_device ON device_cause (device);

CREATE TABLE history (
    n        INTEGER PRIMARY KEY,
    device   INTEGER NOT NULL REFERENCES device (n),
    at       INTEGER NOT NULL,
    what     TEXT NOT NULL,
    verdict  INTEGER NOT NULL,
    previous INTEGER,
    causes   BLOB NOT NULL,
    release  TEXT,
    evidence BLOB,
    note     TEXT
);
CREATE INDEX history_device ON history (device, n);

-- Files by content, path and kind; and sets of them, shared by all devices that run the same.
CREATE TABLE file (
    n      INTEGER PRIMARY KEY,
    digest BLOB NOT NULL,
    path   TEXT NOT NULL,
    kind   TEXT NOT NULL,
    UNIQUE (digest, path, kind)
);
CREATE TABLE mset (
    n     INTEGER PRIMARY KEY,
    hash  BLOB NOT NULL UNIQUE,
    files INTEGER NOT NULL
);
CREATE TABLE mset_file (
    file INTEGER NOT NULL REFERENCES file (n),
    mset INTEGER NOT NULL REFERENCES mset (n),
    PRIMARY KEY (file, mset)
) WITHOUT ROWID;
CREATE INDEX mset_file_mset ON mset_file (mset);

CREATE TABLE secret (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE enrolment_key (
    hour  INTEGER PRIMARY KEY,
    value BLOB NOT NULL
);
CREATE TABLE reference_sequence (
    product  TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL
) WITHOUT ROWID;
