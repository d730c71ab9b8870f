-- Version 2.

-- Operators: what they call devices, who they are, what they did.
ALTER TABLE history ADD COLUMN who TEXT;
ALTER TABLE history ADD COLUMN attested BLOB;   -- what accepted quotes covered, where that ended
CREATE TABLE label (
    device INTEGER NOT NULL REFERENCES device (n),
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (device, key)
) WITHOUT ROWID;
CREATE INDEX label_value ON label (key, value, device);
CREATE TABLE api_token (
    name     TEXT PRIMARY KEY,
    digest   BLOB NOT NULL UNIQUE,   -- SHA-256: the token itself is nowhere
    role     TEXT NOT NULL,
    created  INTEGER NOT NULL,
    used_day INTEGER                 -- days since 1970, so that a request does not cost a write
) WITHOUT ROWID;
CREATE TABLE operator_log (
    n     INTEGER PRIMARY KEY,
    at    INTEGER NOT NULL,
    who   TEXT NOT NULL,
    what  TEXT NOT NULL,
    about TEXT NOT NULL
);

-- Backups: `backup` stands in a copy and becomes `restored` where a program first opens that copy as its store.
CREATE TABLE mark (
    name TEXT PRIMARY KEY,
    at   INTEGER NOT NULL
) WITHOUT ROWID;

-- Enrolment: generations of a registration, who vouches for its endorsement keys, and keys that operators listed.
ALTER TABLE registration ADD COLUMN generation INTEGER NOT NULL DEFAULT 1;    -- one more after each revocation
ALTER TABLE registration ADD COLUMN ak_generation INTEGER NOT NULL DEFAULT 1; -- while behind, another attestation key may come
ALTER TABLE registration ADD COLUMN since INTEGER NOT NULL DEFAULT 0;         -- older nonces count no more
ALTER TABLE registration ADD COLUMN approved_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE registration ADD COLUMN key_changed INTEGER;                      -- when another key was proved
ALTER TABLE registration ADD COLUMN uncertified INTEGER NOT NULL DEFAULT 0;   -- no EK certificate: an operator listed a key
ALTER TABLE registration ADD COLUMN denied_code TEXT;                         -- by CAs, CRLs and deny list as last read
ALTER TABLE registration ADD COLUMN denied_why TEXT;
ALTER TABLE registration ADD COLUMN denied_at INTEGER;
ALTER TABLE registration ADD COLUMN ak_certificate BLOB;
-- What is read again when the operator's lists change. Wide, so it stands apart from what every evidence reads.
CREATE TABLE endorsement (
    device       INTEGER PRIMARY KEY REFERENCES device (n),
    certificates BLOB NOT NULL,      -- as presented
    verified     INTEGER NOT NULL,   -- when their dates held
    issuer       TEXT NOT NULL,
    model        TEXT NOT NULL,
    version      TEXT NOT NULL,
    serials      TEXT NOT NULL
);
CREATE TABLE allowed_ek (
    digest  BLOB PRIMARY KEY,
    product TEXT,
    added   INTEGER NOT NULL
) WITHOUT ROWID;

-- Certificates for the broker that devices were given, until they end.
CREATE TABLE issued (
    serial    BLOB PRIMARY KEY,
    device    INTEGER NOT NULL REFERENCES device (n),
    not_after INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX issued_device ON issued (device);

-- Keys that this verifier signs with, and the message in which its root says so. Keys that have been replaced leave
-- their message: what they signed stays checkable.
CREATE TABLE verifier_key (
    sequence  INTEGER PRIMARY KEY,
    not_after INTEGER NOT NULL,
    root      BLOB NOT NULL,         -- id of the root that signed `message`
    message   BLOB NOT NULL,
    request   BLOB,                  -- PKCS#8 each; NULL once replaced
    result    BLOB,
    log       BLOB
);

-- Epochs, all of them: proofs show what their nonces were made of. The highest time seen is the mark `clock`.
CREATE TABLE epoch (
    number INTEGER PRIMARY KEY,      -- never goes back
    opened INTEGER NOT NULL,         -- by the clock; behind `number` where that clock had been ahead once
    random BLOB NOT NULL,
    nonce  BLOB NOT NULL
);

-- How devices stand once their last verdict has expired: unknown, or worse by what is known beside evidence.
ALTER TABLE device ADD COLUMN late INTEGER NOT NULL DEFAULT 2;
CREATE INDEX device_late ON device (id) WHERE late <> 2;
UPDATE device SET verdict = 3, late = 3 WHERE revoked <> 0;
INSERT OR IGNORE INTO device_cause (code, device) SELECT 'identity.revoked', n FROM device WHERE revoked <> 0;
