-- When nodes had a machine and how many cores that was: quotas, usage metrics and statistics of pools are sums over it.

CREATE TABLE node_usage (
    pk ${KEY},
    node_pk BIGINT NOT NULL,
    pool_pk BIGINT NOT NULL,
    pool_id TEXT NOT NULL,
    vm_size TEXT NOT NULL,
    dedicated INTEGER NOT NULL,
    cores INTEGER NOT NULL,
    allocated BIGINT NOT NULL,
    released BIGINT
);
CREATE INDEX node_usage_open ON node_usage (node_pk, released);
CREATE INDEX node_usage_by_pool ON node_usage (pool_pk);
CREATE INDEX node_usage_by_release ON node_usage (released);
-- Nodes that are there already count from now on with a core each, because nobody noted more of them.
INSERT INTO node_usage (node_pk, pool_pk, pool_id, vm_size, dedicated, cores, allocated)
    SELECT node.pk, pool.pk, pool.id, '', node.dedicated, 1, node.allocated FROM node JOIN pool ON pool.pk = node.pool_pk
    WHERE node.state <> 'leavingpool';
