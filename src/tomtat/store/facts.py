"""What a store remembers of itself: the analysis its index was made by, its embedder, a check of its key."""

from sqlalchemy import Connection, select

from tomtat.store.schema import facts


def fact(connection: Connection, name: str) -> str | None:
    return connection.execute(select(facts.c.value).where(facts.c.name == name)).scalar()


def remember(connection: Connection, name: str, value: str) -> None:
    connection.execute(facts.delete().where(facts.c.name == name))
    connection.execute(facts.insert().values(name=name, value=value))
