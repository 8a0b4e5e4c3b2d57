-- The room's state after an entry of its log. Null: the entry is an event, and it is the event's own
-- state. It is another one where the event came in beside others that it does not follow: its own is
-- that of its branch of the graph, the line's is what resolution made of all branches.
ALTER TABLE log ADD COLUMN state INTEGER;
