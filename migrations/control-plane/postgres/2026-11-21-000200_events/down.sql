CREATE TABLE history (              -- append-only
    seq BIGSERIAL PRIMARY KEY,
    at BIGINT NOT NULL,
    object TEXT NOT NULL,
    what TEXT NOT NULL,
    detail TEXT NOT NULL
);
INSERT INTO history (at, object, what, detail)
SELECT at,
    CASE WHEN kind LIKE 'machine.%' THEN 'machine/' || machine WHEN kind LIKE 'instance.%' THEN 'instance/' || instance
        ELSE 'site/' || site END,
    replace(substr(kind, strpos(kind, '.') + 1), '_', ' '), text
FROM events
WHERE (kind LIKE 'machine.%' AND machine IS NOT NULL) OR (kind LIKE 'instance.%' AND instance IS NOT NULL)
    OR (kind LIKE 'site.%' AND site IS NOT NULL)
ORDER BY id;
CREATE INDEX history_by_object ON history (object);
DROP TABLE states;
DROP TABLE event_counter;
DROP TABLE events;
