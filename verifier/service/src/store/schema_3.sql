-- Version 3.

-- The boot log of a device's present boot, to be held against reference values that change. Wide, so it stands apart from
-- what every evidence reads; written once a boot.
CREATE TABLE boot_log (
    device INTEGER PRIMARY KEY REFERENCES device (n),
    digest BLOB NOT NULL,            -- SHA-256 of `bytes`
    bytes  BLOB NOT NULL
);
