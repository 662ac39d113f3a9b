"""Asks DuckDB, ClickHouse's engine and /v1/history the same questions, and compares the answers.

usage: compare.py DIRECTORY URL QUESTIONS
"""

import json
import pathlib
import random
import re
import sys
import urllib.error
import urllib.request
from datetime import datetime, timezone

import chdb
import duckdb

GUIDE = pathlib.Path(__file__).parents[2] / "doc" / "HISTORY.md"
PROTOCOLS = {6: "tcp", 17: "udp"}


def queries():
    """The two queries of the guide, with places for what is asked."""
    found = re.findall(r"```sql\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)
    assert len(found) == 2, f"{GUIDE} has {len(found)} queries, expected one for each engine"
    for query in found:
        for text, place in [
            ("203.0.113.5", "{ip}"),
            ("40001", "{port}"),
            ("protocol = 6", "protocol = {protocol}"),
            ("2026-11-24 14:03:07", "{at}"),
            ("history/*.parquet", "{files}"),
        ]:
            assert text in query, f"{text} is not in the query of the guide:\n{query}"
            query = query.replace(text, place)
        yield query.strip().rstrip(";")


def ask_daemon(url, ip, port, protocol, at):
    """The inside hosts of an answer of /v1/history."""
    path = f"/v1/history?nat_ip={ip}&nat_port={port}&protocol={PROTOCOLS[protocol]}&at={at}Z&skew=0"
    try:
        with urllib.request.urlopen(url + path.replace(" ", "T")) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        assert error.code == 404, f"{path}: {error.code} {error.read()}"
        answer = json.load(error)
    assert answer["complete"], f"{path}: {answer}"
    return sorted(
        (found["src_ip"], found["src_port"], milliseconds(found["opened"]), milliseconds(found["closed"]))
        for found in answer["matches"]
    )


def milliseconds(time):
    """Milliseconds since the epoch, of the text or the value of any of the three."""
    if time is None:
        return None
    if isinstance(time, str):
        time = datetime.fromisoformat(time.replace("Z", "+00:00"))
    if time.tzinfo is None:
        time = time.replace(tzinfo=timezone.utc)
    return round(time.timestamp() * 1000)


def main():
    directory, url, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    for_duckdb, for_clickhouse = queries()
    files = f"{directory}/*.parquet"
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    rows = database.execute(
        f"SELECT nat_ip, nat_port, protocol, epoch_ms(opened), duration_ms FROM read_parquet('{files}')"
    ).fetchall()
    assert len(rows) > 10_000, f"{len(rows)} rows"
    found = closed = several = 0
    choose = random.Random(7)
    for _ in range(number):
        ip, port, protocol, opened, duration = choose.choice(rows)
        # Often while it was open, sometimes a little before or after.
        after = choose.randrange(-1_000, (60_000 if duration is None else duration) + 1_000)
        at = datetime.fromtimestamp((opened + after) / 1000, timezone.utc)
        at = at.strftime("%Y-%m-%d %H:%M:%S.") + f"{at.microsecond // 1000:03}"
        values = {"ip": ip, "port": port, "protocol": protocol, "at": at, "files": files}
        expected = ask_daemon(url, ip, port, protocol, at)
        by_duckdb = database.execute(for_duckdb.format(**values)).fetchall()
        by_duckdb = sorted((a, b, milliseconds(c), milliseconds(d)) for a, b, c, d in by_duckdb)
        lines = chdb.query(
            for_clickhouse.format(**values) + " SETTINGS session_timezone = 'UTC'", "JSONCompactEachRow"
        )
        by_clickhouse = [json.loads(line) for line in str(lines).splitlines()]
        by_clickhouse = sorted((a, b, milliseconds(c), milliseconds(d)) for a, b, c, d in by_clickhouse)
        assert by_duckdb == expected, f"{values}\nDuckDB     {by_duckdb}\n/v1/history {expected}"
        assert by_clickhouse == expected, f"{values}\nClickHouse {by_clickhouse}\n/v1/history {expected}"
        found += bool(expected)
        several += len(expected) > 1
        closed += any(life[3] is not None for life in expected)
    print(f"{number} questions about {len(rows)} rows: {found} found, {several} with several hosts, all equal")
    assert found > number // 2 and several > 0 and closed > 0


main()
