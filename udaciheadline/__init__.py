"""udaciheadline tells a newsroom's engineer which LLM inference optimisation to deploy, with evidence."""

__version__ = "0.1.0"
