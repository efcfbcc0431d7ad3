"""The client: trains for some epochs on its own photos and replies with its weights."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from pytorchexample.task import Batches, Net, load_data, test, train

app = ClientApp()


@app.train()
def on_train(message: Message, context: Context) -> Message:
    net, (batches, _) = received(message), data(context)
    lr = float(message.content["config"]["lr"])
    loss = train(net, batches, int(context.run_config["local-epochs"]), lr)
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(batches.dataset)})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)


@app.evaluate()
def on_evaluate(message: Message, context: Context) -> Message:
    net, (_, batches) = received(message), data(context)
    loss, accuracy = test(net, batches)
    metrics = MetricRecord({"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(batches.dataset)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def received(message: Message) -> Net:
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return net


def data(context: Context) -> tuple[Batches, Batches]:
    partition, partitions = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    return load_data(partition, partitions, int(context.run_config["batch-size"]))
