/*
 * report_page.mjs
 *		Renders a report in headless Chromium, as a reader at a desk, in the dark
 *		and on a phone would see it, and says what is there.
 *
 * usage: node report_page.mjs CHROMIUM PAGE [PICTURE]
 *
 * Prints one line per check, "ok NAME" or "not ok NAME: WHY", and "done N".
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import puppeteer from 'puppeteer-core';

const [, , program, page_file, picture] = process.argv;
let checks = 0;
let failed = 0;

function check(name, condition, why = '') {
	checks++;
	if (!condition)
		failed++;
	console.log(condition ? `ok ${name}` : `not ok ${name}: ${String(why).replace(/\s+/g, ' ')}`);
}

function same(name, got, expected) {
	check(name, JSON.stringify(got) === JSON.stringify(expected),
		`got ${JSON.stringify(got)}, expected ${JSON.stringify(expected)}`);
}

/* The relative luminance of a colour like "rgb(1, 2, 3)". */
function luminance(colour) {
	const [r, g, b] = colour.match(/\d+/g).map((c) => {
		const x = c / 255;
		return x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
	});
	return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/* Of every piece of text that is seen: how far it stands out from the page. */
async function contrasts(page) {
	const { back, colours } = await page.evaluate(() => ({
		back: getComputedStyle(document.body).backgroundColor,
		colours: [...document.querySelectorAll('h1,h2,p,td,th,b,span')]
			.filter((e) => e.textContent.trim() !== '')
			.map((e) => getComputedStyle(e).color)
	}));
	return {
		back: luminance(back),
		least: Math.min(...colours.map((c) => {
			const [a, b] = [luminance(c), luminance(back)].sort((x, y) => y - x);
			return (a + 0.05) / (b + 0.05);
		}))
	};
}

const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'report-'));
const browser = await puppeteer.launch({
	executablePath: program,
	userDataDir: profile,
	args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-crash-reporter',
		'--disable-background-networking', '--disable-component-update', '--no-first-run']
});

try {
	const page = await browser.newPage();
	const asked = [];
	const complaints = [];

	page.on('request', (r) => asked.push(r.url()));
	page.on('console', (m) => complaints.push(m.text()));
	page.on('pageerror', (e) => complaints.push(e.message));
	page.on('dialog', (d) => { complaints.push(`dialog ${d.message()}`); d.dismiss(); });
	await page.setViewport({ width: 1000, height: 1000 });
	await page.goto(`file://${page_file}`, { waitUntil: 'load' });

	same('nothing else is asked for', asked, [`file://${page_file}`]);
	same('nothing is complained about', complaints, []);
	same('no script is in it', await page.$$eval('script,iframe,object,embed,link,[onload],[onerror],[onclick]', (e) => e.length), 0);
	same('the parts are all there, in this order',
		await page.$$eval('header,section', (e) => e.map((x) => x.id)),
		['summary', 'outcomes', 'progress', 'batches', 'tokens', 'errors', 'samples', 'prompt']);
	same('each part is seen',
		await page.$$eval('header,section', (e) => e.filter((x) => x.getBoundingClientRect().height < 40).map((x) => x.id)), []);
	if (await page.$('#outcomes tbody')) {
		same('the bar of outcomes fills its width',
			await page.$eval('#outcomes svg', (e) => {
				const all = e.getBoundingClientRect().width;
				const parts = [...e.querySelectorAll('rect')].map((r) => r.getBoundingClientRect().width);
				return Math.abs(parts.reduce((a, b) => a + b, 0) / all - 1) < 0.03;
			}), true);
		check('the curve of progress has a height',
			await page.$eval('#progress path', (e) => e.getBoundingClientRect().height) > 50);
		check('batches have bars of some length',
			await page.$$eval('#batches rect', (e) => e.length > 0 && e.every((r) => r.getBoundingClientRect().width > 0)));
	} else
		check('it says that nothing has an outcome yet',
			await page.$eval('#outcomes', (e) => e.textContent.includes('No row has an outcome yet')));

	for (const [name, scheme, dark] of [['light', 'light', false], ['dark', 'dark', true]]) {
		await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
		const { back, least } = await contrasts(page);
		check(`in ${name} mode the page is ${name}`, dark ? back < 0.1 : back > 0.9, back);
		check(`in ${name} mode every text stands out`, least >= 4.5, least);
	}
	await page.emulateMediaFeatures([]);
	if (picture)
		await page.screenshot({ path: picture, clip: { x: 0, y: 0, width: 1000, height: 900 } });

	await page.setViewport({ width: 360, height: 740, isMobile: true, deviceScaleFactor: 2 });
	await page.reload({ waitUntil: 'load' });
	same('on a phone the page does not scroll sideways',
		await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth), true);
	check('on a phone letters are large enough',
		await page.$$eval('p,td,th,b,span', (e) => Math.min(...e.map((x) => parseFloat(getComputedStyle(x).fontSize)))) >= 12);

	/* what the test compares with the views */
	console.log('facts ' + JSON.stringify({
		cards: await page.$$eval('.card', (e) => Object.fromEntries(e.map((x) => [x.querySelector('span').textContent, x.querySelector('b').textContent]))),
		outcomes: await page.$$eval('#outcomes tbody tr', (e) => e.map((x) => [x.cells[0].textContent, x.cells[1].textContent])),
		errors: await page.$$eval('#errors tbody tr', (e) => e.map((x) => [...x.cells].map((c) => c.textContent))),
		samples: await page.$$eval('#samples tbody tr', (e) => e.map((x) => [...x.cells].map((c) => c.textContent))),
		tokens: await page.$$eval('#tokens tbody tr:last-child td', (e) => e.map((x) => x.textContent)),
		batches: await page.$$eval('#batches tbody tr', (e) => e.length),
		subtitle: await page.$eval('#summary p', (e) => e.textContent)
	}));
} finally {
	await browser.close();
	fs.rmSync(profile, { recursive: true, force: true });
}
console.log(`done ${checks}`);
process.exit(failed ? 1 : 0);
