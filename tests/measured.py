"""A benchmark that was measured, with round numbers: what tables, pictures and reports are made of."""

from typing import Any

LOOPS = {
    # sampler, steps, CPU seconds, distance, Dice
    "published": ("ddim", 200, 200.0, 0.05, 0.75),
    "ours in float32": ("unipc", 20, 16.0, 0.05, 0.74),
    "ours": ("unipc", 20, 5.0, 0.052, 0.74),
    "ours, uncontrolled volume cached": ("unipc", 20, 3.0, None, None),
    "unipc 10": ("unipc", 10, 2.5, 0.12, 0.7),
    "dpmpp 20": ("dpmpp", 20, 5.2, 0.06, 0.73),
    "ddim 20": ("ddim", 20, 5.1, 0.3, 0.6),
    "ddim 200": ("ddim", 200, 50.0, 0.055, 0.75),
}


def seconds(median: float) -> dict[str, Any]:
    """Five rounds around a median; wall time is twice as long."""
    rounds = [median * share for share in (0.9, 0.95, 1.0, 1.05, 1.1)]
    return {
        "cpu_seconds": median,
        "cpu_p10": 0.92 * median,
        "cpu_p90": 1.08 * median,
        "wall_seconds": 2 * median,
        "wall_p10": 1.84 * median,
        "wall_p90": 2.16 * median,
        "cpu_rounds": rounds,
    }


def estimate(value: float | None, count: int = 16) -> dict[str, Any]:
    """A mean with its interval, or none."""
    interval = None if value is None else [value - 0.05, value + 0.05]
    return {"value": value, "interval": interval, "count": 0 if value is None else count}


def build_results() -> dict[str, Any]:
    """A whole benchmark on a CPU with AVX512_BF16, every goal reached but that of previews."""
    calls = {"prior": 400, "adapter": 200, "encode": 200, "decode": 2}
    measured = {name: facts for name, facts in LOOPS.items() if facts[3] is not None}
    stages = ("imports", "load", "first run", "next run", "another drawing on the same noise")
    return {
        "model": "mini",
        "precision": "bfloat16",
        "device": "cpu",
        "native_bfloat16": True,
        "weights": {"config.json": 64 * "b", "vcm.safetensors": 64 * "a"},
        "torch": "2.13.0",
        "plan": {"steps": 20, "published_steps": 200, "masks": 16, "noises": 3},
        "loops": {name: {"sampler": facts[0], "steps": facts[1]} for name, facts in LOOPS.items()},
        "counts": {
            "calls": {"published": calls, "ours": {"prior": 40, "adapter": 20, "encode": 1, "decode": 2}},
            "flops": {"published": 9e13, "ours": 5e12, "ours, uncontrolled volume cached": 3e12},
        },
        "parts": {
            "prior": {"float32": seconds(0.4), "ours": seconds(0.1)},
            "adapter": {"float32": seconds(0.04), "ours": seconds(0.012)},
            "encode": {"float32": seconds(0.08), "ours": seconds(0.03)},
            "decode": {"float32": seconds(0.9), "ours": seconds(0.3)},
        },
        "runs": {name: seconds(facts[2]) for name, facts in LOOPS.items()},
        "previews": {"on": seconds(10.0), "off": seconds(8.0)},
        "session": {"seconds": {stage: seconds(1.0) for stage in stages}, "peak_memory_mib": 1000.0},
        "page": {
            "same_recipe": seconds(0.05),
            "payloads": {name: {**seconds(0.03), "bytes": 2**20} for name in ("slices", "scene", "preview")},
            "result_bytes": 6 * 2**20,
        },
        "quality": {
            "reference_steps": 1000,
            "noises": 3,
            "masks": 16,
            "loops": {
                name: {
                    "distance": estimate(facts[3], 3),
                    "dice": estimate(facts[4]),
                    "dice_below_published": estimate(0.75 - facts[4]),
                }
                for name, facts in measured.items()
            },
        },
    }
