// Bundles the page and what it needs into dist/.
import { build } from 'esbuild';
import { cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';

rmSync('dist', { recursive: true, force: true });
mkdirSync('dist', { recursive: true });
await build({
  entryPoints: ['src/main.jsx'],
  outfile: 'dist/main.js',
  bundle: true,
  minify: true,
  format: 'iife',
  jsx: 'automatic',
  target: 'chrome120',
  define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
  loader: { '.svg': 'dataurl', '.woff': 'dataurl', '.woff2': 'dataurl', '.ttf': 'dataurl', '.png': 'dataurl' },
  logLevel: 'warning',
});
cpSync('node_modules/@grafana/ui/dist/public/img/icons', 'dist/public/build/img/icons', { recursive: true });
writeFileSync('dist/index.html', `<!doctype html>
<meta charset="utf-8"><title>sessionpool</title>
<link rel="stylesheet" href="main.css">
<div id="root"></div>
<script src="main.js"></script>
`);
