/*-------------------------------------------------------------------------
 *
 * report_page.c
 *		A job's report as a page of HTML.
 *
 * Charts are inline SVG whose colours are the style sheet's, so that they
 * follow the reader's dark mode; on a narrow screen tables scroll by
 * themselves and nothing else does.  Every text passes through append_text(),
 * whoever wrote it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "api/report_page.h"

#define CHART_WIDTH		600
#define CHART_HEIGHT	160

static const char page_head[] =
"<!DOCTYPE html>\n"
"<html lang=\"en\">\n"
"<head>\n"
"<meta charset=\"utf-8\">\n"
"<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
"<meta name=\"color-scheme\" content=\"light dark\">\n"
"<meta name=\"robots\" content=\"noindex\">\n";

static const char page_style[] =
"<style>\n"
":root{--bg:#fff;--fg:#1b1f24;--dim:#5b6470;--line:#d9dde3;--card:#f5f7f9;--good:#1a7f53;--bad:#c2372e;--rest:#b9c0c9;--ink:#2b62c9}\n"
"@media(prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e4e7eb;--dim:#9aa4b1;--line:#323942;--card:#1d2127;--good:#48bb86;--bad:#f0716a;--rest:#4a525d;--ink:#7aa5f7}}\n"
"*{box-sizing:border-box}\n"
"body{margin:0 auto;max-width:60rem;padding:1rem;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif}\n"
"h1{font-size:1.5rem;margin:.5rem 0 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}\n"
".dim{color:var(--dim)}.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(8rem,1fr));gap:.5rem;margin:1rem 0}\n"
".card{background:var(--card);border-radius:.5rem;padding:.6rem .8rem}.card b{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums}\n"
".state{display:inline-block;padding:0 .6rem;border-radius:1rem;border:1px solid currentColor;font-size:1rem;font-weight:normal;vertical-align:middle}\n"
".good{color:var(--good)}.bad{color:var(--bad)}\n"
".scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}\n"
"th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}\n"
"th{color:var(--dim);font-weight:600;white-space:nowrap}td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}\n"
"svg{display:block;width:100%;height:auto}.ends{display:flex;justify-content:space-between;margin:0;border-top:1px solid var(--line);font-size:.8rem}\n"
".fill-good{fill:var(--good)}.fill-bad{fill:var(--bad)}.fill-rest{fill:var(--rest)}.fill-ink{fill:var(--ink)}\n"
"pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--card);border-radius:.5rem;padding:.8rem;font-size:.85rem}\n"
"</style>\n";

/* ---- texts ---- */

static void
append_character(StringInfo out, pg_wchar c)
{
	switch (c)
	{
		case '<':
			appendStringInfoString(out, "&lt;");
			return;
		case '>':
			appendStringInfoString(out, "&gt;");
			return;
		case '&':
			appendStringInfoString(out, "&amp;");
			return;
		case '"':
			appendStringInfoString(out, "&quot;");
			return;
		case '\'':
			appendStringInfoString(out, "&#39;");
			return;
	}
	/* HTML allows no control characters, not even as references */
	if (c < 0x20 ? c != '\n' && c != '\t' : c >= 0x7F && c < 0xA0)
		appendStringInfoString(out, "&#xFFFD;");
	/* marks of direction would reorder what stands around the text */
	else if ((c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069))
		appendStringInfo(out, "[U+%04X]", c);
	else if (c < 0x7F)
		appendStringInfoChar(out, c);
	else
		appendStringInfo(out, "&#x%X;", c);
}

/* NULL is nothing.  Bytes that SQL_ASCII lets in and are not UTF-8 are shown as LATIN1. */
static void
append_text(StringInfo out, const char *text)
{
	const unsigned char *p;
	int			length;
	bool		utf8 = true;

	if (text == NULL)
		return;
	length = strlen(text);
	if (GetDatabaseEncoding() != PG_SQL_ASCII)
		text = pg_server_to_any(text, length, PG_UTF8);
	else
		utf8 = pg_verify_mbstr(PG_UTF8, text, length, true);

	for (p = (const unsigned char *) text; *p != '\0'; p += utf8 ? pg_utf_mblen(p) : 1)
		append_character(out, utf8 ? utf8_to_unicode(p) : *p);
}

/* A whole number with its thousands apart; anything else as it is; a dash for NULL. */
static void
append_number(StringInfo out, const char *digits)
{
	size_t		length = digits != NULL ? strlen(digits) : 0;

	if (digits == NULL)
		appendStringInfoString(out, "&ndash;");
	else if (strspn(digits, "0123456789") != length)
		append_text(out, digits);
	else
	{
		for (size_t i = 0; i < length; i++)
		{
			if (i > 0 && (length - i) % 3 == 0)
				appendStringInfoChar(out, ',');
			appendStringInfoChar(out, digits[i]);
		}
	}
}

static double
number(const char *digits)
{
	return digits != NULL ? strtod(digits, NULL) : 0;
}

/* ---- pieces ---- */

static void
append_card(StringInfo out, const char *name, const char *value)
{
	appendStringInfo(out, "<div class=\"card\"><span class=\"dim\">%s</span><b>", name);
	append_number(out, value);
	appendStringInfoString(out, "</b></div>\n");
}

static void
begin_section(StringInfo out, const char *id, const char *title)
{
	appendStringInfo(out, "<section id=\"%s\">\n<h2>%s</h2>\n", id, title);
}

static void
end_section(StringInfo out)
{
	appendStringInfoString(out, "</section>\n");
}

/* A heading's names; those that start with "#" are of numbers. */
static void
begin_table(StringInfo out, int ncolumns, const char *const *names)
{
	appendStringInfoString(out, "<div class=\"scroll\"><table>\n<thead><tr>");
	for (int i = 0; i < ncolumns; i++)
	{
		if (names[i][0] == '#')
			appendStringInfo(out, "<th class=\"n\">%s</th>", names[i] + 1);
		else
			appendStringInfo(out, "<th>%s</th>", names[i]);
	}
	appendStringInfoString(out, "</tr></thead>\n<tbody>\n");
}

static void
end_table(StringInfo out)
{
	appendStringInfoString(out, "</tbody></table></div>\n");
}

static void
append_cell(StringInfo out, const char *text)
{
	appendStringInfoString(out, "<td>");
	append_text(out, text);
	appendStringInfoString(out, "</td>");
}

static void
append_number_cell(StringInfo out, const char *digits)
{
	appendStringInfoString(out, "<td class=\"n\">");
	append_number(out, digits);
	appendStringInfoString(out, "</td>");
}

/* ---- sections ---- */

static void
append_head(StringInfo out, int64 job_id, char **job)
{
	const char *state = job[RJ_STATE];
	const char *class = strcmp(state, "done") == 0 ? " good" :
		strcmp(state, "failed") == 0 || strcmp(state, "paused") == 0 ? " bad" : "";

	appendStringInfoString(out, page_head);
	appendStringInfo(out, "<title>dess_batch job " INT64_FORMAT "</title>\n", job_id);
	appendStringInfoString(out, page_style);
	appendStringInfoString(out, "</head>\n<body>\n<header id=\"summary\">\n");
	appendStringInfo(out, "<h1>Job " INT64_FORMAT " <span class=\"state%s\">", job_id, class);
	append_text(out, state);
	appendStringInfoString(out, "</span></h1>\n<p class=\"dim\">");
	if (job[RJ_LABEL] != NULL)
	{
		append_text(out, job[RJ_LABEL]);
		appendStringInfoString(out, " &middot; ");
	}
	append_text(out, job[RJ_SOURCE]);
	appendStringInfoString(out, job[RJ_TARGET] != NULL ? " &rarr; " : ", a trial that writes nothing");
	append_text(out, job[RJ_TARGET]);
	appendStringInfoString(out, " &middot; ");
	append_text(out, job[RJ_MODEL]);
	appendStringInfoString(out, " on ");
	append_text(out, job[RJ_SERVER]);
	appendStringInfo(out, " (%s)</p>\n", job[RJ_MODE]);
}

static void
append_summary(StringInfo out, char **job)
{
	const char *waiting_for = job[RJ_WAITING_FOR];

	if (job[RJ_ERROR] != NULL)
	{
		appendStringInfoString(out, "<p class=\"bad\">");
		append_text(out, job[RJ_ERROR]);
		appendStringInfoString(out, "</p>\n");
	}
	else if (waiting_for != NULL)
	{
		appendStringInfoString(out, "<p>Waiting for ");
		append_text(out, waiting_for);
		appendStringInfoString(out, ".</p>\n");
	}
	appendStringInfoString(out, "<div class=\"cards\">\n");
	append_card(out, "rows", job[RJ_ROWS]);
	append_card(out, "done", job[RJ_DONE]);
	append_card(out, "failed", job[RJ_FAILED]);
	append_card(out, "requests", job[RJ_REQUESTS]);
	append_card(out, "percent", job[RJ_PERCENT]);
	append_card(out, "rows per second", job[RJ_RATE]);
	append_card(out, job[RJ_FINISHED] != NULL ? "duration" : "running for", job[RJ_DURATION]);
	append_card(out, "cost, US dollars", job[RJ_COST]);
	appendStringInfoString(out, "</div>\n</header>\n");
}

/* One bar whose parts are the outcomes' shares. */
static void
append_outcome_bar(StringInfo out, const ReportTable *outcomes, double total)
{
	double		x = 0;

	appendStringInfo(out, "<svg viewBox=\"0 0 %d 24\" role=\"img\" aria-label=\"shares of the outcomes\" preserveAspectRatio=\"none\">",
					 CHART_WIDTH);
	for (int i = 0; i < outcomes->nrows; i++)
	{
		char	  **row = outcomes->rows[i];
		double		width = CHART_WIDTH * number(row[RO_ROWS]) / total;
		const char *class = strcmp(row[RO_OUTCOME], "ok") == 0 ? "good" :
			strcmp(row[RO_OUTCOME], "missing") == 0 ? "ink" :
			strcmp(row[RO_OUTCOME], "empty") == 0 ? "rest" : "bad";

		if (strcmp(row[RO_OUTCOME], "superseded") == 0)
			continue;
		appendStringInfo(out, "<rect class=\"fill-%s\" x=\"%.2f\" y=\"0\" width=\"%.2f\" height=\"24\"><title>%s %s</title></rect>",
						 class, x, Max(width - 1, 0.5), row[RO_OUTCOME], row[RO_ROWS]);
		x += width;
	}
	appendStringInfoString(out, "</svg>\n");
}

static void
append_outcomes(StringInfo out, const ReportTable *outcomes)
{
	static const char *const names[] = {"outcome", "#rows", "#share"};
	double		total = 0;

	begin_section(out, "outcomes", "Outcomes");
	for (int i = 0; i < outcomes->nrows; i++)
	{
		if (strcmp(outcomes->rows[i][RO_OUTCOME], "superseded") != 0)
			total += number(outcomes->rows[i][RO_ROWS]);
	}
	if (total > 0)
	{
		append_outcome_bar(out, outcomes, total);
		begin_table(out, lengthof(names), names);
		for (int i = 0; i < outcomes->nrows; i++)
		{
			char	  **row = outcomes->rows[i];

			if (strcmp(row[RO_OUTCOME], "superseded") == 0)
				continue;
			appendStringInfoString(out, "<tr>");
			append_cell(out, row[RO_OUTCOME]);
			append_number_cell(out, row[RO_ROWS]);
			append_number_cell(out, psprintf("%.1f %%", 100 * number(row[RO_ROWS]) / total));
			appendStringInfoString(out, "</tr>\n");
		}
		end_table(out);
	}
	else
		appendStringInfoString(out, "<p class=\"dim\">No row has an outcome yet.</p>\n");
	end_section(out);
}

/* The area under the rows that had an outcome at the end of each bucket. */
static void
append_area(StringInfo out, const double *sums, double most, const char *class)
{
	appendStringInfo(out, "<path class=\"fill-%s\" d=\"M0 %d", class, CHART_HEIGHT);
	for (int i = 0; i < REPORT_BUCKETS; i++)
		appendStringInfo(out, " L%.1f %.1f", (double) CHART_WIDTH * (i + 1) / REPORT_BUCKETS,
						 CHART_HEIGHT * (1 - sums[i] / most));
	appendStringInfo(out, " L%d %d Z\"/>", CHART_WIDTH, CHART_HEIGHT);
}

static void
append_progress(StringInfo out, char **job, const ReportTable *times)
{
	double		all[REPORT_BUCKETS] = {0};
	double		failed[REPORT_BUCKETS] = {0};
	double		most;

	begin_section(out, "progress", "Progress over time");
	for (int i = 0; i < times->nrows; i++)
	{
		int			bucket = (int) number(times->rows[i][RT_BUCKET]) - 1;

		if (bucket < 0 || bucket >= REPORT_BUCKETS)
			continue;
		failed[bucket] += number(times->rows[i][RT_FAILED]);
		all[bucket] += number(times->rows[i][RT_GOOD]) + number(times->rows[i][RT_FAILED]);
	}
	for (int i = 1; i < REPORT_BUCKETS; i++)
	{
		all[i] += all[i - 1];
		failed[i] += failed[i - 1];
	}
	most = Max(Max(number(job[RJ_ROWS]), all[REPORT_BUCKETS - 1]), 1);

	appendStringInfo(out, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"rows with an outcome over time\">",
					 CHART_WIDTH, CHART_HEIGHT);
	append_area(out, all, most, "good");
	append_area(out, failed, most, "bad");
	appendStringInfoString(out, "</svg>\n<p class=\"dim ends\"><span>");
	append_text(out, job[RJ_STARTED] != NULL ? job[RJ_STARTED] : job[RJ_CREATED]);
	appendStringInfoString(out, "</span><span>");
	append_text(out, job[RJ_FINISHED] != NULL ? job[RJ_FINISHED] : job[RJ_NOW]);
	appendStringInfoString(out, " UTC</span></p>\n<p class=\"dim\">Green: answered; red: failed; to the top: all rows.</p>\n");
	end_section(out);
}

static void
append_batches(StringInfo out, char **job, const JobReport *report)
{
	static const char *const names[] = {"#batch", "state", "#requests", "#seconds", "", "at the provider"};
	char	  **latency = report->latency.rows[0];
	double		most = 0.1;

	begin_section(out, "batches", "Latency of batches");
	appendStringInfo(out, "<p class=\"dim\">%s ended", latency[RL_BATCHES]);
	if (number(latency[RL_BATCHES]) > 0)
		appendStringInfo(out, "; seconds from the first row to the last answer: least %s, median %s, 95 %% within %s, most %s",
						 latency[RL_LEAST], latency[RL_MEDIAN], latency[RL_P95], latency[RL_MOST]);
	appendStringInfoString(out, ".</p>\n");

	for (int i = 0; i < report->batches.nrows; i++)
		most = Max(most, number(report->batches.rows[i][RB_SECONDS]));
	begin_table(out, lengthof(names), names);
	for (int i = 0; i < report->batches.nrows; i++)
	{
		char	  **row = report->batches.rows[i];

		appendStringInfoString(out, "<tr>");
		append_number_cell(out, row[RB_NO]);
		append_cell(out, row[RB_STATE]);
		append_number_cell(out, row[RB_REQUESTS]);
		append_number_cell(out, row[RB_SECONDS]);
		appendStringInfo(out, "<td style=\"min-width:6rem\"><svg viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" style=\"height:.8rem\">"
						 "<rect class=\"fill-ink\" width=\"%.1f\" height=\"10\"/></svg></td>",
						 Max(100 * number(row[RB_SECONDS]) / most, 0.5));
		append_cell(out, row[RB_WORDS]);
		appendStringInfoString(out, "</tr>\n");
	}
	end_table(out);
	end_section(out);
}

static void
append_tokens(StringInfo out, char **job, const ReportTable *outcomes)
{
	static const char *const names[] = {"outcome", "#input", "#of it cached", "#output", "#of it reasoning", "#US dollars"};

	begin_section(out, "tokens", "Tokens and cost");
	begin_table(out, lengthof(names), names);
	for (int i = 0; i < outcomes->nrows; i++)
	{
		char	  **row = outcomes->rows[i];

		appendStringInfoString(out, "<tr>");
		append_cell(out, strcmp(row[RO_OUTCOME], "superseded") == 0 ? "sent again" : row[RO_OUTCOME]);
		for (int column = RO_INPUT_TOKENS; column <= RO_COST; column++)
			append_number_cell(out, row[column]);
		appendStringInfoString(out, "</tr>\n");
	}
	appendStringInfoString(out, "<tr><th>all</th>");
	for (int column = RJ_INPUT_TOKENS; column <= RJ_COST; column++)
		append_number_cell(out, job[column]);
	appendStringInfoString(out, "</tr>\n");
	end_table(out);
	appendStringInfoString(out, "<p>");
	appendStringInfoString(out, job[RJ_COST] != NULL ?
						   "Costs are estimates, by the prices of dess_batch_prices." :
						   "The cost is unknown: dess_batch_prices has no price for this model.");
	appendStringInfoString(out, "</p>\n");
	end_section(out);
}

/* What outcomes mean that come without anybody's words. */
static const char *
outcome_in_words(const char *outcome)
{
	static const char *const words[][2] = {
		{"stale", "the row or its target was changed in the meantime; nothing was overwritten"},
		{"gone", "the row was deleted in the meantime"},
		{"refused", "the model refused to answer"},
		{"truncated", "the answer reached the limit of output tokens"},
		{"expired", "the provider did not come to it in time"},
		{"cancelled", "the job was cancelled before it was answered"},
		{"lost", "the provider's results say nothing about it"}
	};

	for (int i = 0; i < lengthof(words); i++)
	{
		if (strcmp(outcome, words[i][0]) == 0)
			return words[i][1];
	}
	return NULL;
}

static void
append_errors(StringInfo out, const ReportTable *errors)
{
	static const char *const names[] = {"outcome", "code", "#rows", "for example"};

	begin_section(out, "errors", "Errors by kind");
	if (errors->nrows > 0)
	{
		begin_table(out, lengthof(names), names);
		for (int i = 0; i < errors->nrows; i++)
		{
			char	  **row = errors->rows[i];

			appendStringInfoString(out, "<tr>");
			append_cell(out, row[RE_OUTCOME]);
			append_cell(out, row[RE_CODE]);
			append_number_cell(out, row[RE_ROWS]);
			append_cell(out, row[RE_WORDS] != NULL ? row[RE_WORDS] : outcome_in_words(row[RE_OUTCOME]));
			appendStringInfoString(out, "</tr>\n");
		}
		end_table(out);
	}
	else
		appendStringInfoString(out, "<p class=\"dim\">No row failed.</p>\n");
	end_section(out);
}

static void
append_samples(StringInfo out, const ReportTable *samples)
{
	static const char *const names[] = {"row", "outcome", "answer", "error"};

	begin_section(out, "samples", "Sample rows");
	begin_table(out, lengthof(names), names);
	for (int i = 0; i < samples->nrows; i++)
	{
		char	  **row = samples->rows[i];

		appendStringInfoString(out, "<tr>");
		append_cell(out, row[RS_ROW_KEY]);
		append_cell(out, row[RS_OUTCOME]);
		append_cell(out, row[RS_ANSWER]);
		append_cell(out, row[RS_ERROR] != NULL ? row[RS_ERROR] : row[RS_ERROR_CODE]);
		appendStringInfoString(out, "</tr>\n");
	}
	end_table(out);
	end_section(out);
}

static void
append_prompt(StringInfo out, char **job)
{
	begin_section(out, "prompt", "Prompt");
	if (job[RJ_SYSTEM_PROMPT] != NULL)
	{
		appendStringInfoString(out, "<pre>");
		append_text(out, job[RJ_SYSTEM_PROMPT]);
		appendStringInfoString(out, "</pre>\n");
	}
	appendStringInfoString(out, "<pre>");
	append_text(out, job[RJ_PROMPT]);
	appendStringInfoString(out, "</pre>\n");
	end_section(out);
}

static void
append_foot(StringInfo out, char **job)
{
	appendStringInfoString(out, "<footer class=\"dim\"><p>Submitted by ");
	append_text(out, job[RJ_SUBMITTED_BY]);
	appendStringInfoString(out, " for ");
	append_text(out, job[RJ_OWNER]);
	appendStringInfo(out, " at %s UTC. dess_batch %s, report of %s UTC.</p></footer>\n</body>\n</html>\n",
					 job[RJ_CREATED], job[RJ_VERSION], job[RJ_NOW]);
}

void
report_append_page(StringInfo out, int64 job_id, const JobReport *report)
{
	char	  **job = report->job.rows[0];

	append_head(out, job_id, job);
	append_summary(out, job);
	append_outcomes(out, &report->outcomes);
	append_progress(out, job, &report->times);
	append_batches(out, job, report);
	append_tokens(out, job, &report->outcomes);
	append_errors(out, &report->errors);
	append_samples(out, &report->samples);
	append_prompt(out, job);
	append_foot(out, job);
}
