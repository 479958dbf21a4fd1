import pytest
import torch

from dpace_serve.errors import ConfigError
from dpace_training.config import FitConfig
from dpace_training.fit.requirements import require_computable

CPU = torch.device("cpu")


@pytest.mark.parametrize("attention", ["two_part", "sdpa"])
def test_attention_with_a_gradient_on_a_cpu_is_accepted(attention):
    require_computable(FitConfig(attention=attention), CPU)


def test_training_with_flex_attention_on_a_cpu_is_refused_with_the_cure():
    with pytest.raises(ConfigError, match="Set two_part or sdpa") as refused:
        require_computable(FitConfig(attention="flex"), CPU)
    assert "\n" not in str(refused.value)


def test_flex_attention_is_accepted_on_a_gpu():
    require_computable(FitConfig(attention="flex"), torch.device("cuda"))
