"""``python -m tools.reference`` (``make reference``): write the generated pages of the reference again."""

from pathlib import Path

from tools.reference import command_line, plan_settings

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
PAGES = {"cli.md": command_line.render_page, "plan.md": plan_settings.render_page}


def main() -> None:
    """Write every page that follows from the code."""
    for name, render in PAGES.items():
        (FOLDER / name).write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
