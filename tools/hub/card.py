"""The model card of an agent on the Hugging Face Hub: metadata as YAML, then Markdown."""

from dataclasses import dataclass
from typing import Any

from utils.io.checkpoints import Header
from utils.runtime import format_score

LIBRARY = "jax"
TAGS = ["CarRacing-v3", "reinforcement-learning", "world-models", "equinox", "cma-es", "gymnasium"]
PARTS = {
    "vae": "V, a convolutional VAE",
    "rnn": "M, an LSTM with a mixture density output",
    "controller": "C, a linear controller",
}


@dataclass(frozen=True)
class Facts:
    """What the card is made from; all of it is read from the run folder."""

    repository: str
    license: str
    headers: dict[str, Header]
    sha256: dict[str, str]
    evaluation: dict[str, Any] | None
    data: dict[str, tuple[int, int]] | None  # episodes and frames by mode, where they are known


def model_card(facts: Facts, hub: Any) -> str:
    """The whole README.md of the repository; `hub` is the module huggingface_hub."""
    results = [] if facts.evaluation is None else [result_of(facts.evaluation, hub)]
    metadata = hub.ModelCardData(
        library_name=LIBRARY,
        license=facts.license,
        tags=TAGS,
        pipeline_tag="reinforcement-learning",
        model_name=facts.repository.split("/")[1],
        eval_results=results or None,
    )
    sections = [
        f"# {facts.repository}",
        "A world model (Ha & Schmidhuber 2018) of Gymnasium's `CarRacing-v3`, in JAX and Equinox: "
        "V sees, M remembers and predicts, C drives.",
        score_section(facts.evaluation),
        usage_section(facts.repository),
        model_section(facts),
        data_section(facts),
    ]
    return f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"


def protocol_of(evaluation: dict[str, Any]) -> str:
    """Which tracks were driven, as in "100 test tracks, seeds 90000000 … 90000099"."""
    tracks = evaluation["tracks"]
    split = f"{evaluation['split']} " if evaluation["split"] else ""
    seeds = f"{tracks[0]}" if len(tracks) == 1 else f"{tracks[0]} … {tracks[-1]}"
    noun = "track, seed" if len(tracks) == 1 else "tracks, seeds"
    return f"{len(tracks)} {split}{noun} {seeds}, one drive each"


def result_of(evaluation: dict[str, Any], hub: Any) -> Any:
    """The score as an entry of the metadata's model-index."""
    tracks = evaluation["tracks"]
    return hub.EvalResult(
        task_type="reinforcement-learning",
        task_name="reinforcement-learning",
        dataset_type="CarRacing-v3",
        dataset_name="CarRacing-v3",
        dataset_split=evaluation["split"] or None,
        dataset_args={"first_track": tracks[0], "last_track": tracks[-1], "episodes": len(tracks)},
        metric_type="mean_reward",
        metric_name="mean_reward",
        metric_value=format_score(evaluation["scores"], sign="+/-"),
    )


def score_section(evaluation: dict[str, Any] | None) -> str:
    """The score, its protocol and the versions it was measured with."""
    if evaluation is None:
        return "## Score\n\nNot measured."
    low, high = evaluation["interval"]
    interval = "" if low is None else f" (95% interval of the mean {low:.0f} … {high:.0f})"
    measures = "mean" if low is None else "mean and standard deviation"
    versions = ", ".join(f"{name} {version}" for name, version in evaluation["versions"].items())
    return (
        f"## Score\n\n**{format_score(evaluation['scores'])}**{interval}: {measures} of the "
        f"return over {protocol_of(evaluation)}. Worst "
        f"{min(evaluation['scores']):.0f}; {sum(evaluation['finished'])} laps finished. "
        f"Measured by `test_agent.py` with {versions}; `evaluation.json` has every track."
    )


def usage_section(repository: str) -> str:
    """How to drive the agent."""
    return (
        "## Use\n\nIn a clone of the project that made it, with `requirements/hub.txt`:\n\n```\n"
        f"python test_agent.py --run-dir hf://{repository} --output-dir runs/drive\n"
        f"python -m tools.hub pull {repository} --run-dir runs/agent\n```\n\n```python\n"
        "import gymnasium\n\n"
        f'dream = gymnasium.make("envs:DreamCarRacing-v0", run_dir="hf://{repository}")\n```\n\n'
        "`model.safetensors` has all weights under the names of the modules, for other programs."
    )


def model_section(facts: Facts) -> str:
    """Sizes, settings and sha256 of the three models."""
    rows = ["## Models", "", "| file | what | sizes | steps | sha256 |", "|---|---|---|---|---|"]
    for part, header in facts.headers.items():
        sizes = ", ".join(f"{name} {size}" for name, size in header.sizes.items())
        rows.append(
            f"| `{part}.eqx` | {PARTS[part]} | {sizes}; {header.precision} "
            f"| {header.progress.get('step', 'n/a')} | `{facts.sha256[part][:16]}…` |"
        )
    rows.append("")
    for part, header in facts.headers.items():
        settings = ", ".join(f"`{name}` {value}" for name, value in header.settings.items())
        rows.append(f"- Settings of {part}: {settings}")
    return "\n".join(rows)


def data_section(facts: Facts) -> str:
    """What M was trained on."""
    fingerprint = facts.headers["rnn"].inputs["data"]
    rows = [
        "## Data",
        "",
        "Drives of the real track: frames, actions, rewards and ends. The modes recovery and "
        "aggressive are driven by a script that reads the track's geometry. One episode in ten is "
        f"held out. sha256 of the latents that M learned from: `{fingerprint}`.",
        "",
    ]
    if facts.data is None:
        return "\n".join([*rows, "Their number was not recorded."])
    rows += ["| mode | episodes | frames |", "|---|---|---|"]
    rows += [
        f"| {mode} | {episodes:,} | {frames:,} |" for mode, (episodes, frames) in facts.data.items()
    ]
    return "\n".join(rows)
