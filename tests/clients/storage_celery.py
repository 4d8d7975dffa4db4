"""Celery with a real worker over the queues of a storage account: prints "ok" and nothing else. Run by test_storage.py."""

from __future__ import annotations

import os
import subprocess
import sys

from celery import Celery

app = Celery("storage_celery", broker=os.environ["TOUR_BROKER"], backend=f"file://{os.environ['TOUR_RESULTS']}")
app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True, task_default_queue="celery-tour")


@app.task
def double(number: int) -> int:
    """Something to do."""
    return 2 * number


def main() -> None:
    words = ["worker", "--pool", "solo", "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR"]
    worker = subprocess.Popen([sys.executable, "-W", "ignore", "-m", "celery", "-A", "storage_celery", *words], stdout=sys.stderr)
    try:
        asked = [double.delay(number) for number in range(10)]
        assert [each.get(timeout=90) for each in asked] == [2 * number for number in range(10)]
    finally:
        worker.terminate()
        worker.wait(20)
    print("ok")


if __name__ == "__main__":
    sys.modules["storage_celery"] = sys.modules["__main__"]
    main()
