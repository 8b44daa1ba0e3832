# The documents: their SQL runs as it stands there, block by block in one
# session, and the reference knows every function, view, setting and option.
#
# A block that cannot run here stands behind "<!-- not run -->"; a statement
# that is to fail has "-- fails" behind it.  Only addresses are the simulator's.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use DessBatch;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my @documents = ('README.md', map { "doc/$_.md" } qw(reference operations security extending));
my $simulator = start_simulator(
	key => 'sk-...',
	batch_ms => 20,
	google => 1,
	arguments => [ '--key', '...', '--key', 'none', '--project', 'my-project', '--bucket', 'dess-llm-jobs', '--model', 'qwen3:8b' ]);
my $node = start_node('documents', extension => 0);
my $directory = PostgreSQL::Test::Utils::tempdir();
my $script = '';
my $blocks = 0;
my %text;

# Servers of the documents, at the simulator.
sub relocated
{
	my ($sql) = @_;
	my $url = $simulator->url;

	$sql =~ s{(OPTIONS \(provider 'openai')(?!, base_url)}{$1, base_url '$url/v1', poll_interval '1'}g;
	$sql =~ s{(OPTIONS \(provider 'gemini')}{$1, base_url '$url/v1beta', poll_interval '1'}g;
	$sql =~ s{(OPTIONS \(provider 'vertex')}{$1, base_url '$url/v1', storage_url '$url', poll_interval '1'}g;
	$sql =~ s{http://127\.0\.0\.1:11434}{$url}g;
	return $sql;
}

foreach my $document (@documents)
{
	$text{$document} = slurp_file(source_file($document));
	while ($text{$document} =~ /(<!-- not run -->\n)?^```sql\n(.*?)^```$/gms)
	{
		my ($marked, $sql) = ($1, relocated($2));
		my $line = 1 + (substr($text{$document}, 0, $-[0]) =~ tr/\n//);

		next if $marked;
		$blocks++;
		$script .= "\\echo block $blocks: $document:$line\n";
		# what fails is the last statement of its block
		$script .= $sql =~ /-- fails/
		  ? "\\set ON_ERROR_STOP 0\n$sql\n\\set ON_ERROR_STOP 1\n\\if :ERROR\n\\else\nSELECT 'no error'::integer;\n\\endif\n"
		  : "$sql\n";
		unlike($sql, qr/\\watch/, "$document:$line ends by itself") if $sql =~ /\\watch/;
	}
}
cmp_ok($blocks, '>', 25, 'the documents have examples');

PostgreSQL::Test::Utils::system_or_bail('cp', $simulator->credentials('service-account'), "$directory/key.json");
my ($out, $err) = ('', '');
IPC::Run::run(
	[ 'sh', '-c', 'cd "$1" && shift && exec "$@"', 'sh', $directory,
		'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') ],
	'<', \$script, '>', \$out, '2>', \$err);
my $status = $? >> 8;
my @reached = $out =~ /^block \d+: .*$/mg;
is($status, 0, 'every example runs') or diag("after $reached[-1]:\n$err");
is(scalar @reached, $blocks, 'to the last one');

# ---- what the quickstart promises

sub sql { return $node->safe_psql('postgres', $_[0]); }

is(sql(q{SELECT count(*) FILTER (WHERE department_llm = 'MISSING') || ' ' || count(DISTINCT department_llm) || ' ' || count(*) FROM faculty}),
	'250 4 1000', 'the quickstart fills its table');
is(sql(q{SELECT string_agg(category || ' ' || urgent || ' ' || llm_outcome, ', ' ORDER BY id) FROM ticket}) =~ tr/,//, 2, 'and the tickets are sorted');
my ($shown) = $text{'README.md'} =~ /^ 1000 \|(.*)$/m;
is($shown =~ s/\s//gr, sql(q{SELECT concat_ws('|', both_present, equal, contained, different, only_a, only_b, neither, trim_scale(share))
	FROM dess_batch_agreement('faculty', 'department_textual', 'department_llm')}), 'the agreement is the one that is shown');

# ---- the reference is complete

my $examples = join "\n", map { /^```sql\n(.*?)^```$/gms } values %text;
my $reference = $text{'doc/reference.md'};

foreach my $name (split /\n/, sql(q{
	SELECT DISTINCT proname FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
		AND d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'dess_batch')
	WHERE p.pronamespace = 'public'::regnamespace
		AND proname NOT IN ('dess_batch_validator', 'dess_batch_unchanged') ORDER BY 1}))
{
	ok($reference =~ /\b$name\b/, "the reference knows function $name");
	ok($examples =~ /\b$name\b/, "and there is an example of it");
}
foreach my $name (split /\n/, sql(q{SELECT relname FROM pg_class WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace AND relname LIKE 'dess_batch%'}))
{
	my ($columns) = $reference =~ /^\| `$name` \| (.*) \|$/m;
	my @missing = grep { $columns && $columns !~ /\b$_\b/ && !/_tokens$/ }
	  split / /, sql("SELECT string_agg(attname, ' ') FROM pg_attribute WHERE attrelid = '$name'::regclass AND attnum > 0");
	ok($columns, "the reference knows view $name");
	is("@missing", '', 'and its columns') if ($columns // '') !~ /^those of/;
}
foreach my $name (split /\n/, sql(q{SELECT name FROM pg_settings WHERE name LIKE 'dess_batch.%'}))
{
	like($reference, qr/^\| `$name`/m, "the reference knows setting $name");
}
my $hints = join ' ', map { ($node->psql('postgres', "CREATE SERVER x FOREIGN DATA WRAPPER dess_batch OPTIONS (provider '$_', nonsense '1')"))[2] }
  qw(openai vertex gemini);
my %option = map { $_ => 1 } map { split /, / } $hints =~ /(?:options are|are|options): ([a-z_, ]+)\./g;
cmp_ok(scalar keys %option, '>', 20, 'the hints list options');
foreach my $name (sort keys %option)
{
	like($reference, qr/^\|.*`$name`/m, "the reference knows option $name");
}
foreach my $name (split /\n/, sql(q{SELECT DISTINCT unnest(proargnames) FROM pg_proc WHERE proname = 'dess_batch_submit'}))
{
	like($reference, qr/^\| `"?$name"? /m, "the reference knows argument $name");
}

# ---- links lead somewhere

foreach my $document (@documents, 'doc/architecture.md', 'CHANGELOG.md')
{
	my $content = slurp_file(source_file($document));
	my $base = $document =~ s{[^/]*$}{}r;

	while ($content =~ /\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)/g)
	{
		my ($path, $anchor) = ($1, $2);
		my $file = $path eq '' ? source_file($document) : source_file("$base$path");
		ok(-e $file, "$document: $path is there") if $path ne '';
		next unless $anchor && -f $file;
		my @anchors = map { lc($_) =~ s/[^\w\s-]//gr =~ s/\s/-/gr } slurp_file($file) =~ /^#+ (.*)$/mg;
		ok((grep { $_ eq $anchor } @anchors), "$document: $path#$anchor is a heading");
	}
}

$node->stop;
done_testing();
