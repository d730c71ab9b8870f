-- Version 4.

-- How far each series of signed documents has come: releases of a product, one list of endorsements, one notice. A notice
-- that has not expired cannot go by deleting its file.
CREATE TABLE reference_series (
    product  TEXT NOT NULL,
    kind     TEXT NOT NULL,
    name     TEXT NOT NULL,          -- '' for releases, which have one order for each product
    sequence INTEGER NOT NULL,
    expires  INTEGER,
    content  BLOB NOT NULL,          -- SHA-256 of the signed bytes that came so far; zeros where it is not known
    keys     BLOB NOT NULL,          -- ids of the keys that vouched for them, 32 bytes each
    PRIMARY KEY (product, kind, name)
) WITHOUT ROWID;
INSERT INTO reference_series (product, kind, name, sequence, content, keys)
    SELECT product, 'release', '', sequence, zeroblob(32), x'' FROM reference_sequence;
DROP TABLE reference_sequence;

-- What signed lists of endorsements say of a device: its serial number, and whether its product is theirs or an
-- operator's, whose word goes first.
ALTER TABLE registration ADD COLUMN product_source TEXT;   -- 'list' or 'operator'; NULL where there is no product
ALTER TABLE registration ADD COLUMN serial TEXT;
UPDATE registration SET product_source = 'operator'
    WHERE device IN (SELECT n FROM device WHERE product IS NOT NULL);

-- Devices that stand alike: what decides how they stand under any reference values, their product and what runs on them.
-- One of them is re-appraised for all.
CREATE TABLE posture (
    n       INTEGER PRIMARY KEY,
    hash    BLOB NOT NULL UNIQUE,
    product TEXT
);
ALTER TABLE device ADD COLUMN posture INTEGER NOT NULL DEFAULT 0;    -- 0: no evidence; -1: to be worked out anew
CREATE INDEX device_posture ON device (posture) WHERE posture <> 0;
UPDATE device SET posture = -1 WHERE judged IS NOT NULL;
-- Whatever is said of a device beside evidence.
CREATE TRIGGER registration_posture AFTER UPDATE OF ek_class, revoked_why, approved_at, key_changed, uncertified,
    denied_code, denied_why ON registration
BEGIN
    UPDATE device SET posture = -1 WHERE n = new.device AND posture > 0;
END;
CREATE TRIGGER product_posture AFTER UPDATE OF product ON device WHEN new.product IS NOT old.product
BEGIN
    UPDATE device SET posture = -1 WHERE n = new.n AND posture > 0;
END;
CREATE TRIGGER state_posture AFTER DELETE ON device_state
BEGIN
    UPDATE device SET posture = 0 WHERE n = old.device;
END;

-- How devices of a posture stand since the rules changed, until their rows say so.
CREATE TABLE rejudged (
    posture INTEGER PRIMARY KEY REFERENCES posture (n),
    verdict INTEGER NOT NULL,
    late    INTEGER NOT NULL,
    release TEXT,
    state   BLOB NOT NULL,           -- of the one that was re-appraised
    at      INTEGER NOT NULL
);
CREATE TABLE rejudged_cause (
    code    TEXT NOT NULL,
    posture INTEGER NOT NULL REFERENCES rejudged (posture),
    PRIMARY KEY (code, posture)
) WITHOUT ROWID;
CREATE VIEW shown AS
    SELECT d.n, d.id, d.judged, d.expires, d.mset, d.product, j.posture AS rejudged,
           coalesce(j.verdict, d.verdict) AS verdict, coalesce(j.late, d.late) AS late,
           iif(j.posture IS NULL, d.release, j.release) AS release
    FROM device d LEFT JOIN rejudged j ON j.posture = d.posture;
-- The rules that devices were last held against, and when.
CREATE TABLE rules (
    one  INTEGER PRIMARY KEY CHECK (one = 1),
    hash BLOB NOT NULL,
    at   INTEGER NOT NULL
);
