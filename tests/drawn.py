"""Problems drawn by hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from aimills_kernels._op import Case


@st.composite
def attention_cases(draw: st.DrawFn) -> Case:
    lengths, dims = st.integers(0, 40), st.integers(1, 70)
    groups, repeats = draw(st.integers(1, 3)), draw(st.integers(1, 7))
    case = {
        "B": draw(st.integers(0, 3)), "M": draw(lengths), "N": draw(lengths),
        "H": groups * repeats, "G": groups, "D": draw(dims), "Dv": draw(dims),
        "dtype": draw(st.sampled_from(["f16", "bf16", "f32"])),
        "causal": draw(st.booleans()), "lse": draw(st.booleans()),
        "layout": draw(st.sampled_from(["contiguous", "packed", "heads_first"])),
    }  # fmt: skip
    if case["layout"] == "packed":  # one tensor holds all three
        case |= {"N": case["M"], "Dv": case["D"]}
    return Case("drawn", **case)


def seeds() -> st.SearchStrategy[int]:
    return st.integers(0, 2**31)
