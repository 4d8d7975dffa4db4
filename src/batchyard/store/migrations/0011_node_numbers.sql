-- Nodes of a pool are numbered from 0, the smallest free number first: endpoints of a node have it in their name and their port.

ALTER TABLE node ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
UPDATE node SET number = (SELECT count(*) FROM node AS earlier WHERE earlier.pool_pk = node.pool_pk AND earlier.pk < node.pk);
