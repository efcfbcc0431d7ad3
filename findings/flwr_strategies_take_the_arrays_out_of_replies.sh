#!/usr/bin/env bash
# flwr 1.41.0, what `aggregate_train` of the strategies leaves of the replies and of the arrays that it is given.
# Guessed: a strategy reads replies; whoever wraps it, to log, store or audit them, may look before or after. At most
#   Bulyan takes out what it selects, and leaves the outlier.
# Seen: FedAvg and MultiKrum leave all. FedTrimmedAvg and FedMedian take the arrays out of all replies, Bulyan out of
#   those that it selects, so that afterwards only those that it refused hold any: the lowest and the outlier. QFedAvg
#   takes them out of all, and out of the record that it was given as the global model: the initial arrays of a run are
#   empty after its first round.
# So an audit or a log after aggregation sees of a federation under Bulyan the refused alone, under FedMedian nobody,
#   without an error, and a second run that begins with the same record after QFedAvg begins with no model.
# Output seen, arrays in each reply of 7 clients, the last of them far off, then in the global model:
#   FedAvg: 1 1 1 1 1 1 1, global 1
#   MultiKrum: 1 1 1 1 1 1 1, global 1
#   FedTrimmedAvg: 0 0 0 0 0 0 0, global 1
#   FedMedian: 0 0 0 0 0 0 0, global 1
#   Bulyan: 1 0 0 0 0 0 1, global 1
#   QFedAvg: 0 0 0 0 0 0 0, global 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check flwr==1.41.0
cat > "$folder/try.py" <<'PYTHON'
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, FedAvg, FedMedian, FedTrimmedAvg, MultiKrum, QFedAvg
from flwr.supercore.task_identity import TaskIdentity

TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1  # outside a run a Message asks for them


def record(value):
    return ArrayRecord([np.full(3, value, dtype=np.float32)])


def reply(node, value):
    asked = Message(RecordDict(), dst_node_id=node, message_type="train")
    metrics = MetricRecord({"num-examples": 1, "train_loss": 0.5})
    return Message(RecordDict({"arrays": record(value), "metrics": metrics}), reply_to=asked)


def left(strategy):
    strategy.current_arrays = record(0.5)  # what configure_train sets: the record that it was given
    replies = [reply(node, value) for node, value in enumerate([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 100.0], start=1)]
    arrays, _ = strategy.aggregate_train(1, replies)
    assert arrays is not None and len(arrays) == 1
    counts = " ".join(str(len(next(iter(one.content.array_records.values())))) for one in replies)
    print(f"{type(strategy).__name__}: {counts}, global {len(strategy.current_arrays)}")


left(FedAvg())
left(MultiKrum(num_malicious_nodes=1, num_nodes_to_select=5))
left(FedTrimmedAvg(beta=0.2))
left(FedMedian())
left(Bulyan(num_malicious_nodes=1))
left(QFedAvg(client_learning_rate=0.1))
PYTHON
"$folder/venv/bin/python" "$folder/try.py" 2>"$folder/log" | tee "$folder/seen" || { cat "$folder/log"; exit 1; }
grep -qx "FedAvg: 1 1 1 1 1 1 1, global 1" "$folder/seen"
grep -qx "MultiKrum: 1 1 1 1 1 1 1, global 1" "$folder/seen"
grep -qx "FedTrimmedAvg: 0 0 0 0 0 0 0, global 1" "$folder/seen"
grep -qx "FedMedian: 0 0 0 0 0 0 0, global 1" "$folder/seen"
grep -qx "Bulyan: 1 0 0 0 0 0 1, global 1" "$folder/seen"
grep -qx "QFedAvg: 0 0 0 0 0 0 0, global 0" "$folder/seen"
