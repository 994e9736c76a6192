"""What was found in a file, and how it is shown."""

from dataclasses import dataclass, field

_WIDTH = 11


@dataclass
class Findings:
    """What was found in a file.

    facts: (name, text), in the order to be shown
    notes: what reading it had to say: what was guessed, mended or left out
    config: the parts of a configuration that trains on it, or None where nothing does; why: the reason then
    """

    facts: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    config: dict | None = None
    why: str = ""

    def add(self, name: str, text: str) -> None:
        """Note a fact."""
        self.facts.append((name, text))

    def as_text(self) -> str:
        """All of it, for the terminal; the configuration is YAML that can be pasted."""
        lines = [f"  {name:<{_WIDTH}} {text}" for name, text in self.facts]
        lines += [f"  {'note':<{_WIDTH}} {note}" for note in self.notes]
        if self.config is not None:
            lines += ["", "to train on it, in a configuration (the other keys as in configs/):", "", self.as_yaml()]
        elif self.why:
            lines += ["", f"nothing trains on it as it is: {self.why}"]
        return "\n".join(lines)

    def as_yaml(self) -> str:
        """The parts of the configuration, one section of data a line."""
        import yaml

        def flow(value):
            return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).strip()

        lines = []
        for section, keys in (self.config or {}).items():
            lines.append(f"{section}:")
            lines += [f"  {key}: {flow(value).removesuffix('...').strip()}" for key, value in keys.items()]
        return "\n".join(lines)
