/*-------------------------------------------------------------------------
 *
 * fuzz_answer.c
 *		The first byte chooses the rules, the rest is the model's text.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "text/agreement.h"
#include "text/answer.h"
#include "fuzz.h"
#include "text/json.h"

/* Does the array literal open, close and quote as it should? */
static bool
is_array_literal(const char *p)
{
	int			depth = 0;

	for (; *p != '\0'; p++)
	{
		if (*p == '"')
		{
			for (p++; *p != '"'; p++)
			{
				if (*p == '\\')
					p++;
				if (*p == '\0')
					return false;
			}
		}
		else if (*p == '{')
			depth++;
		else if (*p == '}' && --depth == 0)
			return p[1] == '\0';
	}
	return false;
}

static void
check_answer(const AnswerRules *rules, const Answer *answer)
{
	int			nvalues = Max(rules->ncolumns, 1);
	bool		found = false;

	MUST(answer->text != NULL && json_is_utf8(answer->text, strlen(answer->text)));
	MUST((answer->kind == ANSWER_INVALID) == (answer->message != NULL));
	MUST((answer->kind == ANSWER_INVALID) == (answer->sqlstate != NULL));
	for (int i = 0; i < nvalues; i++)
	{
		const char *value = answer->values[i];
		const char *why;

		if (value == NULL)
			continue;
		found = true;
		MUST(json_is_utf8(value, strlen(value)));
		if (rules->ncolumns > 0 ? rules->columns[i].is_array : rules->target_is_array)
			MUST(is_array_literal(value));
		else if (rules->ncolumns > 0 ? rules->columns[i].is_json : rules->target_is_json)
			MUST(json_is_valid(value, strlen(value), &why));
	}
	MUST(found == (answer->kind == ANSWER_OK));
}

/* A name agrees with itself, and two names agree or differ both ways. */
static void
check_agreement(const char *text)
{
	const char *comma = strchr(text, ',');
	char	   *first = agreement_normalize(pnstrdup(text, comma ? comma - text : strlen(text)));
	char	   *second = agreement_normalize(comma ? comma + 1 : NULL);
	AgreementClass class = agreement_compare(first, second);

	MUST(json_is_utf8(first, strlen(first)) && json_is_utf8(second, strlen(second)));
	MUST(agreement_compare(first, first) == (first[0] != '\0' ? AGREEMENT_EQUAL : AGREEMENT_NEITHER));
	if (class == AGREEMENT_ONLY_A)
		MUST(agreement_compare(second, first) == AGREEMENT_ONLY_B);
	else if (class != AGREEMENT_ONLY_B)
		MUST(agreement_compare(second, first) == class);
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	static const AnswerColumn columns[] = {{"a", false, false}, {"b", true, false}, {"c", false, true}, {"d", true, true}};
	AnswerRules rules = {0};
	Answer		answer;
	char	   *text;

	if (size == 0)
		return 0;
	rules.department = data[0] & 1;
	rules.missing = data[0] & 2 ? "MISSING" : NULL;
	rules.expect_json = data[0] & 4;
	rules.target_is_json = data[0] & 8;
	rules.target_is_array = data[0] & 16;
	if (data[0] & 32)
	{
		rules.columns = columns;
		rules.ncolumns = lengthof(columns);
	}

	text = palloc(size);
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	answer_read(&rules, text, &answer);
	check_answer(&rules, &answer);
	check_agreement(answer.text);
	arena_reset();
	return 0;
}
