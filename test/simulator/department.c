/*
 * department.c
 *		Reads texts about a person and says in which department they are.
 *
 * Rules only, no list of departments and no list of people.  A text counts
 * when it names the person by first and last name.  A unit named there counts
 * unless it belongs to the past, is cut off, or stands in an order to the
 * reader.  "Department of X" beats "Professor of X"; of several, the one that
 * follows the name most closely.
 */
#include "answer.h"

#include <ctype.h>

/* All offsets are the same in text and in folded, its lower-case form. */
typedef struct Page
{
	char	   *text;
	char	   *folded;
	size_t		len;
	ssize_t		person;			/* offset of the name, -1: not named */
} Page;

typedef struct Found
{
	char	   *unit;
	bool		strong;
	size_t		distance;
} Found;

static const char *const unit_words[] = {
	"department of ", "departments of ", "dept. of ", "dept of ", "dep. of ", "department: ",
	"dept.: ", "department for ", "departamento de ", "departamento del ", "depto. de ",
	"dpto. de ", "departament de ", "département de ", "département des ", "département du ",
	"département d'", "département d’", "departement de ", "departement d'",
	"dipartimento di ", "institut für ", "institut fuer ", "fachbereich ", "abteilung für ",
	"lehrstuhl für ", "instituto de ", "institutionen för ", "instituut voor ",
	"katedra ", "кафедра ", NULL
};

static const char *const title_words[] = {
	"professor", "lecturer", "professeur", "profesor", "profesora", "reader", "instructor",
	"catedrático", "professorin", NULL
};

static const char *const link_words[] = {
	" emeritus of ", " emeritus in ", " emerita of ", " of ", " in ", " für ", " de ", " d'",
	" of the practice of ", NULL
};

static const char *const past_words[] = {
	"received", "ph.d. from", "phd from", "earned", "graduated", "formerly", "former ",
	"previously", "was a ", "was an ", "was in ", "until ", "degree ", "doctorate",
	"studied", "alumn", "promovierte", "ehemal", "ancien", "anteriormente", "retired from",
	NULL
};

static const char *const present_words[] = {
	" now ", " currently ", " is a ", " is an ", " is in ", "joined", " since ", "aktuell",
	" seit ", "actuellement", "actualmente", "teaches in", NULL
};

static const char *const end_words[] = {
	" at ", " and of ", " and the ", " and is ", " in the ", " of the ", " see ", " - ",
	" – ", " — ", " and by ", " by courtesy", " und institut", " et département",
	" and department", " and affiliat", " y de ", " et de ", NULL
};

static const char *const no_units[] = {
	"missing", "n/a", "none", "unknown", "the", "arts", "a", "interest", "the year", NULL
};

/* One escape as \xa0, \u2026 or \n that was left in the text as characters. */
static uint32_t
left_escape(const char **s)
{
	const char *p = *s;
	unsigned	v;

	if (p[1] == 'x' && isxdigit((unsigned char) p[2]) && isxdigit((unsigned char) p[3]) &&
		sscanf(p + 2, "%2x", &v) == 1)
	{
		*s = p + 4;
		return v;
	}
	if (p[1] == 'u' && strspn(p + 2, "0123456789abcdefABCDEF") >= 4 &&
		sscanf(p + 2, "%4x", &v) == 1)
	{
		*s = p + 6;
		return v;
	}
	if (p[1] == 'n' || p[1] == 't' || p[1] == 'r')
	{
		*s = p + 2;
		return '\n';
	}
	*s = p + 1;
	return '\\';
}

/* The text without what is invisible, all kinds of blanks and breaks alike. */
static char *
clean_text(const char *s)
{
	StrBuf		b = {0};
	uint32_t	c;

	buf_str(&b, "");
	while (*s)
	{
		c = *s == '\\' ? left_escape(&s) : utf8_next(&s);
		if (c == 0xA0 || c == 0x2007 || c == 0x202F || c == 0x3000)
			c = ' ';
		if ((c >= 0x200B && c <= 0x200F) || (c >= 0x202A && c <= 0x202E) ||
			(c >= 0x2066 && c <= 0x2069) || c == 0xFEFF)
			continue;
		if (c == 0x2028 || c == 0x2029 || c == '\r' || c == 0x85)
			c = '\n';
		if (c == '\t')
			buf_str(&b, " | ");
		else if (c == '.' && s[0] == '.' && s[1] == '.')
		{
			buf_str(&b, "…");
			s += 2;
		}
		else if (c != ' ' || b.len == 0 || b.data[b.len - 1] != ' ')
			utf8_put(&b, c);
	}
	return b.data;
}

/* Whether the period at p ends a sentence. */
static bool
ends_sentence(const char *text, const char *p)
{
	const char *word = p;
	const char *next = p + 1;
	size_t		len;

	if (*p == '\n')
		return true;
	if (*p != '.' && *p != '!' && *p != '?')
		return false;
	if (*next != ' ')
		return *next == '\0' || *next == '\n';
	next += strspn(next, " ");
	if (!is_upper(utf8_next(&next)))
		return false;
	while (word > text && !isspace((unsigned char) word[-1]) && word[-1] != '(')
		word--;
	len = p - word;
	if (*p == '.' && (memchr(word, '.', len) != NULL ||
					  (len <= 2 && isupper((unsigned char) *word)) ||
					  strncasecmp(word, "dept", len) == 0 || strncasecmp(word, "prof", len) == 0 ||
					  strncasecmp(word, "univ", len) == 0 || strncasecmp(word, "mrs", len) == 0))
		return false;
	return true;
}

static bool
is_order(const char *folded)
{
	static const char *const starts[] = {"answer ", "answer:", "respond ", "reply ", "output ",
	"say ", "you must ", "please answer", "system:", NULL};
	static const char *const verbs[] = {"ignore", "disregard", "forget", NULL};
	static const char *const objects[] = {"above", "previous", "prior", "instruction", "before",
	"everything", NULL};

	folded += strspn(folded, " \"'");
	for (int i = 0; starts[i] != NULL; i++)
	{
		if (strncmp(folded, starts[i], strlen(starts[i])) == 0)
			return true;
	}
	for (int i = 0; verbs[i] != NULL; i++)
	{
		for (int k = 0; objects[k] != NULL && strstr(folded, verbs[i]) != NULL; k++)
		{
			if (strstr(folded, objects[k]) != NULL)
				return true;
		}
	}
	return false;
}

/* Text in a row is data: sentences that give orders are left out. */
static char *
without_orders(const char *text)
{
	StrBuf		b = {0};
	const char *from = text;

	buf_str(&b, "");
	for (const char *p = text;; p++)
	{
		char	   *sentence;
		char	   *folded;

		if (*p != '\0' && !ends_sentence(text, p))
			continue;
		sentence = xstrndup(from, p - from + (*p != '\0'));
		folded = fold_text(sentence);
		if (!is_order(folded))
			buf_str(&b, sentence);
		free(sentence);
		free(folded);
		if (*p == '\0')
			return b.data;
		from = p + 1;
	}
}

static bool
word_at(const Page *page, size_t at, size_t len)
{
	const char *after = page->folded + at + len;
	unsigned char before = at > 0 ? (unsigned char) page->folded[at - 1] : ' ';

	return !isalnum(before) && (before < 0x80 || before == 0xAA) && !is_letter(utf8_next(&after));
}

/* Only a first name, or its initial, stands between from and to. */
static bool
has_first(const Page *page, size_t from, size_t to, const char *first)
{
	size_t		len = strlen(first);

	for (size_t i = from; i + 1 < to; i++)
	{
		if (i + len <= to && strncmp(page->folded + i, first, len) == 0 && word_at(page, i, len))
			return true;
		if (page->folded[i] == first[0] && page->folded[i + 1] == '.' && word_at(page, i, 1))
			return true;
	}
	return false;
}

/* Start of what may be a given name in front of offset at. */
static size_t
name_start(const Page *page, size_t at)
{
	size_t		from = at;
	int			words = 0;

	while (from > 0 && at - from < 40)
	{
		char		c = page->folded[from - 1];

		if (strchr(",;|\n()/:", c) != NULL || (c == ' ' && ++words > 3))
			break;
		from--;
	}
	return from;
}

static void
find_person(Page *page, const Facts *f)
{
	char	   *first = fold_text(f->first ? f->first : "");
	char	   *last = fold_text(f->last ? f->last : "");
	size_t		len = strlen(last);

	page->person = -1;
	for (char *p = page->folded; *first && *last && (p = strstr(p, last)) != NULL; p++)
	{
		size_t		at = p - page->folded;
		size_t		from = name_start(page, at);

		if (!word_at(page, at, len))
			continue;
		if (has_first(page, from, at, first))
			page->person = (ssize_t) from;
		else if (p[len] == ',' && has_first(page, at + len + 1,
											at + len + 2 + strlen(first) + 1 < page->len ?
											at + len + 2 + strlen(first) : page->len, first))
			page->person = (ssize_t) at;
		if (page->person >= 0)
			break;
	}
	free(first);
	free(last);
}

static const char *
last_of(const char *s, const char *const *words)
{
	const char *best = NULL;

	for (int i = 0; words[i] != NULL; i++)
	{
		for (const char *p = strstr(s, words[i]); p != NULL; p = strstr(p + 1, words[i]))
		{
			if (best == NULL || p > best)
				best = p;
		}
	}
	return best;
}

/* Whether the sentence in front of offset at tells of the past. */
static bool
is_past(const Page *page, size_t at)
{
	size_t		from = at;
	char	   *before;
	const char *past;
	const char *present;
	bool		answer;

	while (from > 0 && !ends_sentence(page->text, page->text + from - 1))
		from--;
	before = xstrndup(page->folded + from, at - from);
	past = last_of(before, past_words);
	present = last_of(before, present_words);
	answer = past != NULL && (present == NULL || present < past);
	free(before);
	return answer;
}

/* Length of the unit's name that starts at offset at; 0 if it is cut off. */
static size_t
unit_length(const Page *page, size_t at)
{
	const char *start = page->folded + at;
	const char *p = start;
	size_t		len;

	while (*p)
	{
		const char *next = p;
		uint32_t	c = utf8_next(&next);
		bool		end = strchr(",;|()\n\":", (int) (c < 0x80 ? c : 'a')) != NULL ||
			c == 0xB7 || (c >= 0x2000 && !is_letter(c) && c != 0x2019);

		if (c == '.' && (ends_sentence(page->text, page->text + (p - page->folded)) ||
						 p[1] == '\0'))
			end = true;
		for (int i = 0; end_words[i] != NULL && !end; i++)
			end = strncmp(p, end_words[i], strlen(end_words[i])) == 0;
		if (end)
			break;
		p = next;
	}
	len = p - start;
	while (len > 0 && (start[len - 1] == ' ' || start[len - 1] == '-'))
		len--;
	while (*p == ' ')
		p++;
	if (strncmp(p, "…", strlen("…")) == 0 ||
		(len > 4 && strncmp(start + len - 4, " and", 4) == 0))
		return 0;
	return len;
}

static bool
all_capitals(const char *s)
{
	bool		upper = false;
	uint32_t	c;

	while ((c = utf8_next(&s)) != 0)
	{
		upper = upper || is_upper(c);
		if (is_letter(c) && !is_upper(c))
			return false;
	}
	return upper;
}

/* ENGLISH AND HISTORY becomes English and History. */
static char *
title_case(const char *s)
{
	static const char *const small[] = {"and", "of", "in", "the", "for", "de", "und", NULL};
	char	   *low = fold_text(s);
	StrBuf		b = {0};
	size_t		at = 0;

	buf_str(&b, "");
	while (low[at])
	{
		size_t		len = strcspn(low + at, " -/");
		bool		is_small = false;
		const char *first = s + at;

		for (int i = 0; small[i] != NULL && at > 0; i++)
			is_small = is_small || (strlen(small[i]) == len && strncmp(low + at, small[i], len) == 0);
		utf8_next(&first);
		if (is_small || len == 0)
			buf_add(&b, low + at, len);
		else
		{
			buf_add(&b, s + at, first - (s + at));
			buf_add(&b, low + (first - s), at + len - (first - s));
		}
		at += len;
		if (low[at])
			buf_char(&b, low[at++]);
	}
	free(low);
	return b.data;
}

static void
consider(const Page *page, size_t mark, size_t at, size_t len, bool strong, Found *best)
{
	size_t		distance;
	char	   *unit;
	char	   *folded;
	bool		ok = true;

	if (len < 2 || len > 90 || is_past(page, mark))
		return;
	unit = trim_copy(page->text + at, len);
	folded = fold_text(unit);
	for (int i = 0; no_units[i] != NULL; i++)
		ok = ok && strcmp(folded, no_units[i]) != 0;
	free(folded);
	distance = (ssize_t) at >= page->person ? at - (size_t) page->person :
		100000 + (size_t) page->person - at;
	if (!ok || (best->unit != NULL && (best->strong > strong ||
									   (best->strong == strong && best->distance <= distance))))
	{
		free(unit);
		return;
	}
	free(best->unit);
	best->unit = unit;
	best->strong = strong;
	best->distance = distance;
}

/* "in the X department": X stands in front. */
static void
units_before(const Page *page, Found *best)
{
	const char *p = page->folded;

	for (; (p = strstr(p, " department")) != NULL; p++)
	{
		size_t		end = p - page->folded;
		size_t		from = end;
		const char *the = NULL;

		if (isalpha((unsigned char) p[11]) || strncmp(p + 11, " of ", 4) == 0 || p[11] == ':')
			continue;
		while (from > 0 && end - from < 90 && strchr(",;|\n().", page->folded[from - 1]) == NULL)
			from--;
		for (const char *q = page->folded + from; q < p; q++)
		{
			if (strncmp(q, " the ", 5) == 0 && q + 5 < p)
				the = q + 5;
		}
		if (the != NULL)
			from = the - page->folded;
		if (the != NULL || from + 60 > end)
			consider(page, from, from, end - from, true, best);
	}
}

static void
units_after(const Page *page, Found *best)
{
	for (int i = 0; unit_words[i] != NULL; i++)
	{
		size_t		len = strlen(unit_words[i]);

		for (char *p = page->folded; (p = strstr(p, unit_words[i])) != NULL; p += len)
		{
			size_t		mark = p - page->folded;

			if (mark == 0 || !isalpha((unsigned char) p[-1]))
				consider(page, mark, mark + len, unit_length(page, mark + len), true, best);
		}
	}
	for (int i = 0; title_words[i] != NULL; i++)
	{
		size_t		len = strlen(title_words[i]);

		for (char *p = page->folded; (p = strstr(p, title_words[i])) != NULL; p += len)
		{
			for (int k = 0; link_words[k] != NULL; k++)
			{
				size_t		mark = p - page->folded;
				size_t		at = mark + len + strlen(link_words[k]);

				if (strncmp(p + len, link_words[k], strlen(link_words[k])) != 0 ||
					strncmp(page->folded + at, "the ", 4) == 0)
					continue;
				consider(page, mark, at, unit_length(page, at), false, best);
				break;
			}
		}
	}
}

/* The department of the person that the facts are about, to be freed, or NULL. */
char *
department_of(const Facts *f)
{
	Found		best = {NULL, false, 0};

	for (int i = 0; i < f->ntext; i++)
	{
		char	   *clean = clean_text(f->text[i]);
		Page		page;
		Found		found = {NULL, false, 0};

		page.text = without_orders(clean);
		page.folded = fold_text(page.text);
		page.len = strlen(page.text);
		free(clean);
		find_person(&page, f);
		if (page.person >= 0)
		{
			units_after(&page, &found);
			units_before(&page, &found);
		}
		if (found.unit != NULL && (best.unit == NULL || (found.strong && !best.strong)))
		{
			free(best.unit);
			best = found;
		}
		else
			free(found.unit);
		free(page.text);
		free(page.folded);
	}
	if (best.unit != NULL && all_capitals(best.unit) && strlen(best.unit) > 4)
	{
		char	   *title = title_case(best.unit);

		free(best.unit);
		best.unit = title;
	}
	return best.unit;
}
