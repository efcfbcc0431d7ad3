#!/usr/bin/env bash
# flwr 1.41.0, the strategies FedTrimmedAvg, MultiKrum and Bulyan on the replies of few clients.
# Guessed: a trimmed mean leaves out at least the largest and the smallest; a rule that has too few replies says so, as
#   Bulyan does.
# Seen: FedTrimmedAvg(beta=0.2) of 4 clients is the plain mean, with the outlier in it: 0.2 * 4 is rounded down to none.
#   MultiKrum told that 1 is wrong and to keep 10 keeps all 4. Only Bulyan counts the replies: it skips the round and
#   warns. From 5 clients on beta=0.2 trims, so one client that does not answer changes the rule for that round.
# So in a study with few users "robust aggregation" can mean none: what it does to leakage and accuracy is then what
#   averaging does.
# Output seen:
#   FedTrimmedAvg, beta 0.2, of 0 1 2 100: 25.75
#   FedTrimmedAvg, beta 0.2, of 0 1 2 3 100: 2.0
#   MultiKrum, 1 wrong, keeps 10, of 0 1 2 100: 25.75
#   Bulyan, 1 wrong, of 0 1 2 3 100: None
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check flwr==1.41.0
cat > "$folder/try.py" <<'PYTHON'
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, FedTrimmedAvg, MultiKrum
from flwr.supercore.task_identity import TaskIdentity

TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1  # outside a run a Message asks for them


def record(value):
    return ArrayRecord([np.array([value], dtype=np.float32)])


def aggregated(strategy, values):
    strategy.current_arrays = record(0)  # what configure_train sets
    replies = []
    for node, value in enumerate(values, start=1):
        asked = Message(RecordDict(), dst_node_id=node, message_type="train")
        content = RecordDict({"arrays": record(value), "metrics": MetricRecord({"num-examples": 1})})
        replies.append(Message(content, reply_to=asked))
    arrays, _ = strategy.aggregate_train(1, replies)
    return None if arrays is None else float(arrays.to_numpy_ndarrays()[0][0])


four, five = [0, 1, 2, 100], [0, 1, 2, 3, 100]
print("FedTrimmedAvg, beta 0.2, of 0 1 2 100:", aggregated(FedTrimmedAvg(beta=0.2), four))
print("FedTrimmedAvg, beta 0.2, of 0 1 2 3 100:", aggregated(FedTrimmedAvg(beta=0.2), five))
keeps_ten = MultiKrum(num_malicious_nodes=1, num_nodes_to_select=10)
print("MultiKrum, 1 wrong, keeps 10, of 0 1 2 100:", aggregated(keeps_ten, four))
print("Bulyan, 1 wrong, of 0 1 2 3 100:", aggregated(Bulyan(num_malicious_nodes=1), five))
PYTHON
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
grep -qx "FedTrimmedAvg, beta 0.2, of 0 1 2 100: 25.75" "$folder/seen"
grep -qx "FedTrimmedAvg, beta 0.2, of 0 1 2 3 100: 2.0" "$folder/seen"
grep -qx "MultiKrum, 1 wrong, keeps 10, of 0 1 2 100: 25.75" "$folder/seen"
grep -qx "Bulyan, 1 wrong, of 0 1 2 3 100: None" "$folder/seen"
