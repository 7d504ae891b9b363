"""Networks: plain ones, the supernet whose weights they share, and the way from one to the other."""

from nas.model.network import Network
from nas.model.supernet import Supernet, extract

__all__ = ["Network", "Supernet", "extract"]
