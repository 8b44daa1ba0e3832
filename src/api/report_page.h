/*-------------------------------------------------------------------------
 *
 * report_page.h
 *		A job's report as a page of HTML.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_API_REPORT_PAGE_H
#define DESS_API_REPORT_PAGE_H

#include "lib/stringinfo.h"

#include "ledger/ledger.h"

/*
 * Appends the whole page.  It needs nothing from elsewhere, runs no script, and
 * is ASCII: other characters are references, so it reads the same whatever
 * encoding it is saved in.  Texts are in the database's encoding and escaped.
 */
extern void report_append_page(StringInfo out, int64 job_id, const JobReport *report);

#endif							/* DESS_API_REPORT_PAGE_H */
