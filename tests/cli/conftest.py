from tests.defs.conftest import _own_environment, copied, played

__all__ = ["_own_environment", "copied", "played"]
