"""PostgreSQL backups that have already been restored."""

__version__ = "0.1.0"
