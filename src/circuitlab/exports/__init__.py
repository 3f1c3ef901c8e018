"""Files for other people's software, each read back and checked after it is written.

>>> import circuitlab as cl
>>> sorted(name for name in cl.exports.__all__ if name.startswith("write"))
['write_csv', 'write_duo_attention', 'write_headvis', 'write_razor_attention']
"""

from circuitlab.exports.duo_attention import DuoAttentionGates, read_duo_attention, write_duo_attention
from circuitlab.exports.headvis import write_headvis
from circuitlab.exports.headvis_tree import HeadVisTree, read_headvis
from circuitlab.exports.razor_attention import RazorAttentionHeads, read_razor_attention, write_razor_attention
from circuitlab.exports.side_by_side import read_csv, write_csv

__all__ = [
    "DuoAttentionGates",
    "HeadVisTree",
    "RazorAttentionHeads",
    "read_csv",
    "read_duo_attention",
    "read_headvis",
    "read_razor_attention",
    "write_csv",
    "write_duo_attention",
    "write_headvis",
    "write_razor_attention",
]
