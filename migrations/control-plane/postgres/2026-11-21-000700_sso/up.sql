-- A grant that came from a group at the single sign-on provider says so; it is taken back when the group is gone.
ALTER TABLE grants ADD COLUMN source TEXT;
