/*-------------------------------------------------------------------------
 *
 * test_agreement.c
 *		Tests of src/agreement.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <unistd.h>

#include "text/agreement.h"
#include "tap.h"

typedef struct NameCase
{
	const char *name;
	const char *normal;
} NameCase;

static const NameCase names[] = {
	{"Computer Science", "computer science"},
	{"  COMPUTER\t science. ", "computer science"},
	{"Department of Computer Science", "computer science"},
	{"the Department of the History of Art", "history of art"},
	{"Dept. of Physics", "physics"},
	{"Physics Department", "physics"},
	{"Department", "department"},
	{"Departments", "departments"},
	{"Department of", "of"},
	{"Institut f\u00FCr Informatik", "informatik"},
	{"Institut", "institut"},
	{"Institute for Physics", "institute for physics"},
	{"Fachbereich Mathematik und Informatik", "mathematik and informatik"},
	{"D\u00E9partement d\u2019informatique", "informatique"},
	{"D\u00E9partement de l'\u00C9conomie et de la Gestion", "economie and de la gestion"},
	{"Departamento de Ingenier\u00EDa y Ciencias", "ingenieria and ciencias"},
	{"Dipartimento dell'Informazione e Comunicazione", "informazione and comunicazione"},
	{"Departamento de F\u00EDsica", "fisica"},
	{"Math & Stats", "math and stats"},
	{"Math&Stats", "math and stats"},
	{"Math and Stats", "math and stats"},
	{"Vitamin E", "vitamin e"},
	{"Women's Studies", "womens studies"},
	{"Women\u2019s Studies", "womens studies"},
	{"Womens Studies", "womens studies"},
	{"Stra\u00DFenbau", "strassenbau"},
	{"STRASSENBAU", "strassenbau"},
	{"\u00C6rospace \u00D8kologi", "aerospace okologi"},
	{"e\u0301cologie", "ecologie"},				/* a letter and its accent apart */
	{"\uFF30\uFF48\uFF59\uFF53\uFF49\uFF43\uFF53", "physics"},	/* full width */
	{"Bio-Medical", "bio medical"},
	{"\u0397\u039B\u0395\u039A\u03A4\u03A1\u039F\u039D\u0399\u039A\u0397", "\u03B7\u03BB\u03B5\u03BA\u03C4\u03C1\u03BF\u03BD\u03B9\u03BA\u03B7"},
	{"\u4FE1\u606F\u79D1\u5B66", "\u4FE1\u606F\u79D1\u5B66"},
	{"", ""}, {" \u00A0.", ""}, {NULL, ""},
	{"MISSING", ""}, {"n/a", ""}, {"N/A.", ""}, {"None", ""}, {"unknown", ""},
	{"Missing Persons", "missing persons"}
};

typedef struct Pair
{
	const char *a;
	const char *b;
	const char *class;
} Pair;

static const Pair pairs[] = {
	{"Physics", "Department of Physics", "equal"},
	{"Physique", "D\u00E9partement de physique", "equal"},
	{"Physics & Astronomy", "physics and astronomy", "equal"},
	{"computer", "Computer Science", "contained"},
	{"School of Computer Science", "computer science", "contained"},
	{"put", "Computer Science", "different"},
	{"Computer", "Computers and Society", "different"},
	{"Science Computer", "Computer Science", "different"},
	{"Art", "Arts", "different"},
	{"art", "cart art", "contained"},
	{"Physics", "MISSING", "only_a"},
	{NULL, "Physics", "only_b"},
	{"n/a", " ", "neither"},
	{NULL, NULL, "neither"}
};

/* n times the text, malloc'd. */
static char *
repeated(const char *text, int n)
{
	size_t		length = strlen(text);
	char	   *result = malloc(length * n + 1);

	for (int i = 0; i < n; i++)
		memcpy(result + i * length, text, length);
	result[length * n] = '\0';
	return result;
}

/* A megabyte that repeats itself is compared in a moment; the alarm ends what takes minutes. */
static void
test_long_names(void)
{
	char	   *text = repeated("a", 1000000);
	char	   *words = repeated("a", 500000);
	char	   *marks = repeated("\u05C1", 500000);
	char	   *together = malloc(1000002);

	alarm(60);
	is_text(agreement_class_name(agreement_compare(text, words)), "different",
			"half of a word is no word of it");
	is_text(agreement_class_name(agreement_compare(words, text)), "different", "nor the other way round");
	arena_reset();

	/* of the second kind each goes before all of the first */
	sprintf(together, "%s", marks);
	for (int i = 500000; i < 1000000; i += 2)
		memcpy(together + i, "\u05B0", 2);
	together[1000000] = '\0';
	ok(strlen(agreement_normalize(together)) == 1000000, "marks out of order are all there");
	arena_reset();

	free(together);
	together = repeated("l\u2019a women\u2019s \uFF30 ", 20000);
	ok(strstr(agreement_normalize(together), "s women") == NULL &&
	   strlen(agreement_normalize(together)) == strlen("l a womens p ") * 20000 - 1,
	   "a long name is read as a short one");
	arena_reset();
	alarm(0);
	free(text);
	free(words);
	free(marks);
	free(together);
}

int
main(void)
{
	for (int i = 0; i < lengthof(names); i++)
	{
		is_text(agreement_normalize(names[i].name), names[i].normal, "normal form of \"%s\"",
				names[i].name ? names[i].name : "(null)");
		arena_reset();
	}
	for (int i = 0; i < lengthof(pairs); i++)
	{
		char	   *a = agreement_normalize(pairs[i].a);
		char	   *b = agreement_normalize(pairs[i].b);

		is_text(agreement_class_name(agreement_compare(a, b)), pairs[i].class, "\"%s\" and \"%s\"", a, b);
		arena_reset();
	}
	test_long_names();
	return done_testing();
}
