-- Which root directory on which machine a node's agent has, so that a second agent with the same token is kept away.

ALTER TABLE node ADD COLUMN root TEXT;
