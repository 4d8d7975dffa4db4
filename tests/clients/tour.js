// One tour through the service with a version of @azure/batch. Arguments: its directory, that of a version whose shared key it borrows
// (6 has none), prefix for ids. Prints a JSON object: what was found.
"use strict";
const [, , directory, keys, prefix] = process.argv;
const { BatchServiceClient } = require(directory);
const { BatchSharedKeyCredentials } = require(keys);

const env = process.env;
const key = new BatchSharedKeyCredentials(env.AZURE_BATCH_ACCOUNT, env.AZURE_BATCH_ACCESS_KEY);
const batch = client();
const found = { api_version: batch.apiVersion };

function client() {
  try {
    return new BatchServiceClient(key, env.AZURE_BATCH_ENDPOINT);
  } catch {
    return new BatchServiceClient(key, { baseUri: env.AZURE_BATCH_ENDPOINT }); // 6
  }
}

async function until(look) {
  const deadline = Date.now() + 60000;
  for (;;) {
    const seen = await look();
    if (seen) return seen;
    if (Date.now() > deadline) throw new Error(`waited too long: ${look}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function codeOf(promise) {
  try {
    await promise;
  } catch (error) {
    return (error.body && error.body.code) || error.code || String(error);
  }
  throw new Error("no error was raised");
}

async function machine() {
  if (batch.account.listNodeAgentSkus) {
    const agents = await batch.account.listNodeAgentSkus();
    const agent = agents.find((each) => each.verifiedImageReferences.length > 0);
    found.images = agent.osType;
    return { imageReference: agent.verifiedImageReferences[0], nodeAgentSKUId: agent.id };
  }
  const images = await batch.account.listSupportedImages();
  const first = images.find((each) => each.verificationType === "verified");
  found.images = first.osType;
  return { imageReference: first.imageReference, nodeAgentSKUId: first.nodeAgentSKUId };
}

async function pool() {
  const slots = found.api_version < "2020-09" ? "maxTasksPerNode" : "taskSlotsPerNode";
  const body = { id: prefix, vmSize: "standard_d2s_v3", virtualMachineConfiguration: await machine(), targetDedicatedNodes: 0 };
  await batch.pool.add({ ...body, [slots]: 3 });
  await until(async () => (await batch.pool.get(prefix)).allocationState === "steady");
  const one = await batch.pool.get(prefix);
  const [listed] = await batch.pool.list({ poolListOptions: { filter: `id eq '${prefix}'`, select: `id,${slots}` } });
  found.slots = [one[slots], listed[slots]];
  found.exists = [(await batch.pool.exists(prefix)).body, (await batch.pool.exists(prefix + "-not")).body];
  await batch.pool.patch(prefix, { metadata: [{ name: "a", value: "1" }] });
  found.metadata = (await batch.pool.get(prefix)).metadata[0].value;
  await batch.pool.updateProperties(prefix, { certificateReferences: [], applicationPackageReferences: [], metadata: [] });
  await batch.pool.enableAutoScale(prefix, { autoScaleFormula: "$TargetDedicatedNodes=0;" });
  found.formula = (await batch.pool.evaluateAutoScale(prefix, "$TargetDedicatedNodes=0;")).error === undefined;
  await batch.pool.disableAutoScale(prefix);
  await until(async () => (await batch.pool.get(prefix)).allocationState === "steady");
  await batch.pool.resize(prefix, { targetDedicatedNodes: 1 });
  found.pool_again = await codeOf(batch.pool.add(body));
}

async function text(answer) {
  const parts = [];
  for await (const part of answer.readableStreamBody) parts.push(part);
  return Buffer.concat(parts).toString();
}

async function job() {
  const special = { jobPreparationTask: { commandLine: "true" }, jobReleaseTask: { commandLine: "true" } };
  await batch.job.add({ id: prefix, poolInfo: { poolId: prefix }, ...special });
  await batch.task.add(prefix, { id: "one", commandLine: "/bin/sh -c 'echo hello; exit 3'" });
  const more = [0, 1, 2].map((i) => ({ id: `more${i}`, commandLine: "/bin/true" }));
  found.added = (await batch.task.addCollection(prefix, more)).value.map((each) => each.status);
  await until(async () => (await batch.task.list(prefix)).every((each) => each.state === "completed"));
  let counts = await batch.job.getTaskCounts(prefix);
  counts = counts.taskCounts || counts;
  found.counts = ["active", "running", "completed", "succeeded", "failed"].map((name) => counts[name]);
  const task = await batch.task.get(prefix, "one");
  found.task = [task.state, task.executionInfo.exitCode, task.executionInfo.result];
  const failed = await batch.task.list(prefix, { taskListOptions: { filter: "executionInfo/result eq 'failure'" } });
  found.failed = failed.map((each) => each.id);
  found.stdout = await text(await batch.file.getFromTask(prefix, "one", "stdout.txt"));
  found.files = (await batch.file.listFromTask(prefix, "one")).map((each) => each.name).sort();
  found.length = String((await batch.file.getPropertiesFromTask(prefix, "one", "stdout.txt")).contentLength);
  const [status] = await batch.job.listPreparationAndReleaseTaskStatus(prefix);
  found.preparation = status.jobPreparationTaskExecutionInfo.result;
  await batch.task.reactivate(prefix, "one");
  await until(async () => (await batch.task.get(prefix, "one")).state === "completed");
  await batch.task.deleteMethod(prefix, "more2");
  found.no_task = await codeOf(batch.task.get(prefix, "more2"));
  await batch.job.patch(prefix, { priority: 5 });
  found.priority = (await batch.job.list({ jobListOptions: { filter: `id eq '${prefix}'` } })).map((each) => each.priority);
  await batch.job.disable(prefix, "requeue");
  await until(async () => (await batch.job.get(prefix)).state === "disabled");
  await batch.job.enable(prefix);
  await batch.task.add(prefix, { id: "long", commandLine: "/bin/sleep 300" });
  await until(async () => (await batch.task.get(prefix, "long")).state === "running");
  await batch.task.terminate(prefix, "long");
}

async function nodes() {
  const [node] = await batch.computeNode.list(prefix);
  found.node = (await batch.computeNode.get(prefix, node.id)).isDedicated;
  if ((await batch.file.listFromComputeNode(prefix, node.id)).length === 0) throw new Error("a node without files");
  found.login = (await batch.computeNode.getRemoteLoginSettings(prefix, node.id)).remoteLoginPort;
  await batch.computeNode.disableScheduling(prefix, node.id);
  found.scheduling = (await batch.computeNode.get(prefix, node.id)).schedulingState;
  await batch.computeNode.enableScheduling(prefix, node.id);
  const [counts] = await batch.account.listPoolNodeCounts({ accountListPoolNodeCountsOptions: { filter: `poolId eq '${prefix}'` } });
  found.nodes = counts.dedicated.total;
}

async function away() {
  await batch.job.terminate(prefix, { terminateReason: "enough" });
  found.reason = await until(async () => (await batch.job.get(prefix)).executionInfo.terminateReason);
  await batch.job.deleteMethod(prefix);
  await batch.pool.deleteMethod(prefix);
  await until(async () => !(await batch.pool.exists(prefix)).body);
}

async function main() {
  try {
    await batch.pool.list();
  } catch (error) {
    found.refused = await codeOf(Promise.reject(error));
    return;
  }
  for (const step of [pool, job, nodes, away]) await step();
}

main().then(
  () => console.log(JSON.stringify(found)),
  (error) => {
    console.error(error, JSON.stringify(found));
    process.exit(1);
  },
);
