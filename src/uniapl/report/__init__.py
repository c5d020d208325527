"""One self-contained HTML page from one run folder or many; needs no torch and no network."""

from uniapl.report.page import build_report

__all__ = ["build_report"]
