"""What is in a file of data: `geotdm inspect`."""

from geotdm_fast.inspection.findings import Findings
from geotdm_fast.inspection.look import inspect_file

__all__ = ["Findings", "inspect_file"]
