/*-------------------------------------------------------------------------
 *
 * agreement.c
 *		How far two names of departments agree.
 *
 * Names are compared by their words.  Accents go by Unicode's compatibility
 * decomposition, which also unites the forms of a letter; no locale is asked,
 * so that a figure is the same on every machine.  Words are never reordered
 * and never translated: that "Informatik" is "Computer Science" is for a
 * person to say.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"

#include "miscadmin.h"
#else
#include "postgres_fe.h"

#define CHECK_FOR_INTERRUPTS()	((void) 0)
#endif

#include "common/unicode_norm.h"
#include "lib/stringinfo.h"

#include "text/agreement.h"
#include "text/answer_text.h"

static const char *const class_names[] = {
	[AGREEMENT_EQUAL] = "equal",
	[AGREEMENT_CONTAINED] = "contained",
	[AGREEMENT_DIFFERENT] = "different",
	[AGREEMENT_ONLY_A] = "only_a",
	[AGREEMENT_ONLY_B] = "only_b",
	[AGREEMENT_NEITHER] = "neither"
};

const char *
agreement_class_name(AgreementClass class)
{
	return class_names[class];
}

/* characters that are decomposed together */
#define LONGEST_PIECE	256

/* ---- letters ---- */

/*
 * The decomposed characters of the name's next piece, 0 at their end, palloc'd.
 * To bring marks into order takes the square of their number, so a piece ends
 * before a blank, over which nothing is moved, and where there is none all the
 * same.
 */
static pg_wchar *
decompose_piece(const char **name)
{
	pg_wchar	input[LONGEST_PIECE + 1];
	int			n = 0;

	while (**name != '\0' && n < LONGEST_PIECE && (n < LONGEST_PIECE / 2 || **name != ' '))
		input[n++] = text_next_char(name);
	input[n] = 0;
	return unicode_normalize(UNICODE_NFKD, input);
}

static void
free_decomposed(pg_wchar *chars)
{
#ifdef FRONTEND
	free(chars);
#else
	pfree(chars);
#endif
}

/* A mark that belongs to the letter before it. */
static bool
is_mark(pg_wchar c)
{
	return (c >= 0x300 && c <= 0x36F) || (c >= 0x1AB0 && c <= 0x1AFF) ||
		(c >= 0x1DC0 && c <= 0x1DFF) || (c >= 0x20D0 && c <= 0x20FF) ||
		(c >= 0xFE20 && c <= 0xFE2F);
}

static bool
is_punctuation(pg_wchar c)
{
	if (c < 0x80)
		return !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z'));
	return c < 0xC0 || c == 0xD7 || c == 0xF7 ||
		(c >= 0x2000 && c <= 0x206F) || (c >= 0x2190 && c <= 0x27BF) ||
		(c >= 0x3000 && c <= 0x303F) || c == 0xFEFF || c == 0x180E;
}

static bool
is_apostrophe(pg_wchar c)
{
	return c == '\'' || c == 0x2019 || c == 0x2018 || c == 0x2BC;
}

/* What Unicode does not decompose although readers do; NULL for other letters. */
static const char *
spelled_out(pg_wchar c)
{
	switch (c)
	{
		case 0xDF:
		case 0x1E9E:
			return "ss";
		case 0xE6:
			return "ae";
		case 0x153:
			return "oe";
		case 0xF8:
			return "o";
		case 0xF0:
		case 0x111:
			return "d";
		case 0xFE:
			return "th";
		case 0x131:
			return "i";
		case 0x142:
			return "l";
		case '&':
			return " and ";
		default:
			return NULL;
	}
}

/* One character, as one to four bytes of UTF-8. */
static void
append_char(StringInfo out, pg_wchar c)
{
	char		bytes[5] = {0};

	unicode_to_utf8(c, (unsigned char *) bytes);
	appendStringInfoString(out, bytes);
}

/* A piece's letters and digits in lower case; blanks for everything between them. */
static void
append_letters(StringInfo out, const pg_wchar *chars)
{
	for (const pg_wchar *p = chars; *p != 0; p++)
	{
		pg_wchar	c = text_fold_char(*p);
		const char *other = spelled_out(c);

		if (is_mark(c))
			continue;
		/* women's is one word, l'informatique is two */
		if (is_apostrophe(c) && (p[1] == 's' || p[1] == 'S') && is_punctuation(text_fold_char(p[2])))
			continue;
		if (other != NULL)
			appendStringInfoString(out, other);
		else if (is_punctuation(c) || is_apostrophe(c))
			appendStringInfoChar(out, ' ');
		else
			append_char(out, c);
	}
}

static void
append_name(StringInfo out, const char *name)
{
	while (*name != '\0')
	{
		pg_wchar   *chars = decompose_piece(&name);

		append_letters(out, chars);
		free_decomposed(chars);
		CHECK_FOR_INTERRUPTS();
	}
}

/* ---- words ---- */

static bool
is_among(const char *word, const char *const *words, int nwords)
{
	for (int i = 0; i < nwords; i++)
	{
		if (strcmp(word, words[i]) == 0)
			return true;
	}
	return false;
}

#define IS_AMONG(word, words) is_among(word, words, lengthof(words))

static const char *const department_words[] = {
	"department", "departments", "dept", "depts", "departement", "departements",
	"departamento", "departamentos", "departament", "departaments",
	"dipartimento", "dipartimenti", "dpto", "fachbereich", "abteilung"
};

static const char *const linking_words[] = {
	"of", "for", "the", "fur", "der", "die", "das", "des", "de", "d", "du", "la", "las",
	"los", "le", "les", "l", "el", "di", "del", "dell", "dello", "della", "delle", "dei",
	"degli", "do", "da", "dos"
};

static const char *const and_words[] = {"and", "und", "et", "y", "e", "ed", "i"};

/* How many words at the start only say that a department follows. */
static int
skip_department(char **words, int nwords)
{
	int			skip = 0;

	if (nwords > 1 && strcmp(words[0], "the") == 0)
		skip = 1;
	if (skip + 1 < nwords && IS_AMONG(words[skip], department_words))
		skip++;
	else if (skip + 2 < nwords && strcmp(words[skip], "institut") == 0 && strcmp(words[skip + 1], "fur") == 0)
		skip += 2;
	else
		return skip;
	while (skip + 1 < nwords && IS_AMONG(words[skip], linking_words))
		skip++;
	return skip;
}

/* Splits in place; the array is palloc'd and points into the text. */
static char **
split_words(char *text, int *nwords)
{
	char	  **words = palloc((strlen(text) / 2 + 1) * sizeof(char *));
	char	   *state = NULL;

	*nwords = 0;
	for (char *word = strtok_r(text, " ", &state); word != NULL; word = strtok_r(NULL, " ", &state))
		words[(*nwords)++] = word;
	return words;
}

static bool
says_nothing(char **words, int nwords)
{
	static const char *const nothing[] = {"missing", "none", "unknown", "null", "nil"};

	return nwords == 0 ||
		(nwords == 1 && (IS_AMONG(words[0], nothing) || strcmp(words[0], "na") == 0)) ||
		(nwords == 2 && strcmp(words[0], "n") == 0 && strcmp(words[1], "a") == 0);
}

char *
agreement_normalize(const char *name)
{
	StringInfoData letters;
	StringInfoData result;
	char	  **words;
	int			nwords;
	int			first;

	initStringInfo(&result);
	if (name == NULL)
		return result.data;
	initStringInfo(&letters);
	append_name(&letters, name);
	words = split_words(letters.data, &nwords);
	if (says_nothing(words, nwords))
		return result.data;

	first = skip_department(words, nwords);
	if (nwords - first > 1 && IS_AMONG(words[nwords - 1], department_words))
		nwords--;
	for (int i = first; i < nwords; i++)
	{
		bool		inside = i > first && i < nwords - 1;

		if (i > first)
			appendStringInfoChar(&result, ' ');
		appendStringInfoString(&result, inside && IS_AMONG(words[i], and_words) ? "and" : words[i]);
	}
	return result.data;
}

/* ---- comparison ---- */

/* Do the words of the one stand in the other, side by side?  One search: each one more could take as long as the whole. */
static bool
contains_words(const char *text, const char *words)
{
	return strlen(words) < strlen(text) &&
		strstr(psprintf(" %s ", text), psprintf(" %s ", words)) != NULL;
}

AgreementClass
agreement_compare(const char *a, const char *b)
{
	if (a[0] == '\0')
		return b[0] == '\0' ? AGREEMENT_NEITHER : AGREEMENT_ONLY_B;
	if (b[0] == '\0')
		return AGREEMENT_ONLY_A;
	if (strcmp(a, b) == 0)
		return AGREEMENT_EQUAL;
	return contains_words(a, b) || contains_words(b, a) ? AGREEMENT_CONTAINED : AGREEMENT_DIFFERENT;
}
