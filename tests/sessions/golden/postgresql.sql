BEGIN;
CREATE TABLE IF NOT EXISTS "golden" (
    key text COLLATE "C" PRIMARY KEY,    -- the application's prefix and the SHA-256 of the session id
    format smallint NOT NULL DEFAULT 1,  -- of this row
    kind text NOT NULL,                  -- session; or moved, and data is the key that it has moved to
    created double precision NOT NULL,   -- epoch seconds
    deadline double precision NOT NULL,  -- epoch seconds
    timeout double precision,            -- minutes, where the session has its own
    account text NOT NULL,               -- percent-quoted; empty: nobody signed in
    remembered boolean NOT NULL,         -- the user asked to stay signed in
    data text NOT NULL                   -- the values, as JSON
) WITH (fillfactor = 70);
CREATE INDEX IF NOT EXISTS "golden_deadline" ON "golden" (deadline);
CREATE INDEX IF NOT EXISTS "golden_account" ON "golden" (left(account, 500), key) WHERE account <> '';
COMMIT;
