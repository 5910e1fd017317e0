"""What `imaging status` and `imaging intake check` say of the ledger."""

from __future__ import annotations

from typing import Any

import psycopg

from imaging_core.ledger.study import MADE_HERE

__all__ = ["counts"]


def counts(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Count deliveries by state, and instances by how far their study has come.

    Returns
    -------
    dict
        accepted, duplicate, rejected, quarantined, held: they add up to ``deliveries``. registered, analysed,
        not_analysed, no_model, failed, pending: accepted instances, by the state of their study's analyses.
    """
    deliveries = {
        state: int(number)
        for state, number in connection.execute("SELECT state, count(*) FROM ledger.delivery GROUP BY state").fetchall()
    }
    row = connection.execute(
        """
        SELECT count(*) FILTER (WHERE i.registered),
               count(*) FILTER (WHERE s.failed_at IS NOT NULL),
               count(*) FILTER (WHERE s.failed_at IS NULL AND s.hold_reason IS NULL
                                      AND (NOT i.registered OR s.analysed_version < s.version)),
               count(*) FILTER (WHERE done AND a.state = 'analysed'),
               count(*) FILTER (WHERE done AND a.state = 'not_analysed'),
               count(*) FILTER (WHERE done AND a.state = 'no_model')
        FROM ledger.instance i
        JOIN ledger.study s USING (study_uid)
        CROSS JOIN LATERAL (SELECT s.failed_at IS NULL AND i.registered AND s.analysed_version >= s.version AS done) d
        LEFT JOIN LATERAL (SELECT min(state) AS state FROM ledger.analysis WHERE study_uid = s.study_uid) a ON true
        WHERE NOT (i.own AND i.client = %s)  -- what was made here is nobody's delivery
        """,
        (MADE_HERE,),
    ).fetchone()
    registered, failed, pending, analysed, not_analysed, no_model = row or (0, 0, 0, 0, 0, 0)
    names = ("accepted", "duplicate", "rejected", "quarantined", "held")
    return {
        "deliveries": sum(deliveries.values()),
        **{name: deliveries.get(name, 0) for name in names},
        "registered": registered,
        "analysed": analysed,
        "not_analysed": not_analysed,
        "no_model": no_model,
        "failed": failed,
        "pending": pending,
    }
