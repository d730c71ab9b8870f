-- Version 2.

-- Operators: what they call devices, who they are, what they did.
ALTER TABLE history ADD COLUMN who TEXT;
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
