"""Every option of a run: the schema, loading a YAML file with overrides, and the generated reference."""

from uniapl.config.loading import (
    ConfigSource,
    dump_chosen,
    dump_config,
    dump_published,
    load_config,
    overridden_keys,
    packaged_configs,
    resolved,
)
from uniapl.config.reference import config_reference
from uniapl.config.schema import Config

__all__ = [
    "Config",
    "ConfigSource",
    "config_reference",
    "dump_chosen",
    "dump_config",
    "dump_published",
    "load_config",
    "overridden_keys",
    "packaged_configs",
    "resolved",
]
