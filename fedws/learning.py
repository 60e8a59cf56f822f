"""Training and scoring on the data of one node: what tasks are made of, under one name."""

from fedws.core.seeds import initial as initial
from fedws.core.seeds import order_seed as order_seed
from fedws.core.seeds import seeded as seeded
from fedws.evaluation import Score as Score
from fedws.evaluation import score as score
from fedws.objective import device as device
from fedws.training import Trained as Trained
from fedws.training import gradient as gradient
from fedws.training import train as train
from fedws.workspace import Workspace as Workspace
