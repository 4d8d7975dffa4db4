// One round with the storage clients of npm: storage_tour.js DIRECTORY; prints "ok" and nothing else.
"use strict";
const { createRequire } = require("node:module");
const assert = require("node:assert");
const modules = createRequire(`${process.argv[2]}/`);
const { BlobServiceClient } = modules("@azure/storage-blob");
const { QueueServiceClient } = modules("@azure/storage-queue");

async function main() {
  const service = BlobServiceClient.fromConnectionString(process.env.TOUR_CONNECTION);
  const box = service.getContainerClient("npm");
  await box.create();
  const blob = box.getBlockBlobClient("a/b");
  await blob.uploadData(Buffer.alloc(5 << 20, 7), { metadata: { Kept: "yes" }, blockSize: 1 << 20, maxSingleShotSize: 1 << 20 });
  assert.strictEqual((await blob.downloadToBuffer()).length, 5 << 20);
  const names = [];
  for await (const found of box.listBlobsFlat({ includeMetadata: true })) names.push([found.name, found.metadata]);
  assert.deepStrictEqual(names, [["a/b", { Kept: "yes" }]]);
  const poller = await box.getBlobClient("copy").beginCopyFromURL(blob.url);
  assert.strictEqual((await poller.pollUntilDone()).copyStatus, "success");
  const lease = blob.getBlobLeaseClient();
  await lease.acquireLease(15);
  await lease.releaseLease();
  const pages = box.getPageBlobClient("disk");
  await pages.create(1024);
  await pages.uploadPages(Buffer.alloc(512, 1), 512, 512);
  await service.setProperties({ cors: [] });
  await box.getBlobBatchClient().deleteBlobs([blob.url, `${box.url}/copy`], service.credential);
  await box.delete();

  const queue = QueueServiceClient.fromConnectionString(process.env.TOUR_CONNECTION).getQueueClient("npm");
  await queue.create();
  await queue.sendMessage("hello");
  const [message] = (await queue.receiveMessages()).receivedMessageItems;
  assert.strictEqual(message.messageText, "hello");
  await queue.deleteMessage(message.messageId, message.popReceipt);
  await queue.delete();
  console.log("ok");
}

main().catch((error) => { console.error(error); process.exit(1); });
