-- The openings that were gathered for a month.
INSERT INTO opening SELECT * FROM pg_temp.opening_gathered
