"""The verdict as text: what to deploy and how, of what that is true, and what each other row lost by."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from udaciheadline.evidence.verdict import Budget, Decision
from udaciheadline.records import Record
from udaciheadline.report.colour import Paint, by_state, plain
from udaciheadline.techniques import techniques

_DEFAULTS = (("prompt", "notebook"), ("stop", "newline"), ("max_new_tokens", 25), ("engine", "transformers"))


def text(decision: Decision, records: Sequence[Record], paint: Paint = plain) -> str:
    """The answer first, then the command, then one line a row."""
    lines = [by_state(f"{decision.sentence}.", "deploy" if decision.technique else "undecided", paint)]
    if decision.regime:
        lines.append(f"It holds for {decision.regime}; {asked(decision.budget)}.")
    lines += decision.notes
    chosen = next((record for record in records if record.technique == decision.technique), None)
    if chosen is not None:
        python = lines_of_python(chosen)
        lines += ["", f"    {command(chosen)}", *[""] * bool(python), *(f"    {line}" for line in python), ""]
    told = {record.technique for record in records if record.status == "skipped"}  # in one line of the table
    others = [s for s in decision.standings if s.technique not in {decision.technique, *told}]
    if others:
        name, state = (max(map(len, column)) for column in zip(*((s.technique, s.state) for s in others), strict=True))
        lines += [""] if chosen is None else []
        lines += [by_state(f"{s.technique:{name}}  {s.state:{state}}  {s.why}.", s.state, paint) for s in others]
    return "\n".join(lines)


def asked(budget: Budget) -> str:
    """What the verdict was asked for."""
    limits = ", ".join(limit.text for limit in budget.limits)
    return f"goal {budget.goal}" + (f", budget {limits}" if limits else "")


def command(record: Record) -> str:
    """The command that writes headlines as this row did: with the session's options, where they are not the default."""
    technique = techniques().get(record.technique)
    settings = record.settings
    options = ["--technique", record.technique, "--model", str(settings.get("model_name", "embedded"))]
    if technique and technique.needs_target and settings.get("target_name"):
        options += ["--target", str(settings["target_name"])]
        if settings.get("draft_name") != settings.get("model_name") and not record.technique.endswith("target"):
            options += ["--draft", str(settings["draft_name"])]
    named = settings.get("pruned_model")
    for checkpoint in named if isinstance(named, list) else []:
        if checkpoint.startswith(f"{record.technique}="):
            options += ["--pruned-model", checkpoint]
    for name, default in _DEFAULTS:
        if settings.get(name, default) != default:
            options += [f"--{name.replace('_', '-')}", str(settings[name])]
    usual = "bfloat16" if settings.get("device") == "cuda" else "float32"
    if (dtype := settings.get("dtype", usual)) != usual:
        options += ["--dtype", str(dtype)]
    if technique and technique.parallel:
        options += ["--ranks", str(settings.get("ranks", 2))]
    return shlex.join(["udaciheadline", "write", "ARTICLES", "-o", "HEADLINES.jsonl", *options])


def lines_of_python(record: Record) -> list[str]:
    """The same in Python, for a `prompt`: of a technique that is a few arguments of transformers, on a model that
    transformers loads by its name; else nothing."""
    technique, settings = techniques().get(record.technique), record.settings
    model = str(settings.get("model", ""))
    if technique is None or technique.arguments is None or not _is_loaded_by_name(model):
        return []
    dtype, device = settings.get("dtype", "float32"), settings.get("device", "cpu")
    most = settings.get("max_new_tokens", 25)
    loaded, generated = technique.arguments[0].format(dtype=dtype), technique.arguments[1]
    stop = ', stop_strings="\\n", tokenizer=tokenizer' if settings.get("stop", "newline") == "newline" else ""
    configuration = ", BitsAndBytesConfig" if "BitsAndBytesConfig" in loaded else ""
    options = "".join(f", {argument}" for argument in (generated,) if argument) + stop
    return [
        f"from transformers import AutoModelForCausalLM, AutoTokenizer{configuration}",
        f"checkpoint = {model!r}",
        "tokenizer = AutoTokenizer.from_pretrained(checkpoint)",
        f"model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype={dtype!r}, {_placed(loaded, str(device))})",
        'inputs = tokenizer(prompt, return_tensors="pt").to(model.device)',
        f"tokens = model.generate(**inputs, do_sample=False, max_new_tokens={most}{options})",
        'headline = tokenizer.decode(tokens[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True).strip()',
    ]


def _placed(loaded: str, device: str) -> str:
    return loaded if "device_map" in loaded else ", ".join(filter(None, [f"device_map={device!r}", loaded]))


def _is_loaded_by_name(model: str) -> bool:
    return bool(model) and not model.startswith("shape:") and Path(model).suffix != ".gguf"
