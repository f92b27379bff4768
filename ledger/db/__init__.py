"""The database: tables, engine, migrations, roles, and how rows are found."""
