// Draws the committed dashboard with Grafana's own components, from a live Prometheus. What Grafana's server and its
// panel plugins would do between the two (variables, queries, field options) is done here, for the kinds of panel that
// the dashboard has.
//
// Parameters of the URL: prometheus, start, end (seconds), pool, host, interval ($__rate_interval), step, theme, rows
// (titles, separated by "|"; all by default), width.
import '@fontsource-variable/inter';
import { createRoot } from 'react-dom/client';
import {
  applyFieldOverrides, cacheFieldDisplayNames, createDataFrame, createTheme, dateTime, FieldConfigOptionsRegistry, FieldType, ThemeContext,
  standardTransformers, standardTransformersRegistry, transformDataFrame,
} from '@grafana/data';
import { BigValue, GlobalStyles, Icon, PanelChrome, TimeSeries } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import { lastValueFrom } from 'rxjs';

const parameters = new URLSearchParams(location.search);
const asked = (name, otherwise) => parameters.get(name) ?? otherwise;
const start = Number(asked('start'));
const end = Number(asked('end'));
const step = Number(asked('step', '2'));
const width = Number(asked('width', '1400'));
const variables = { pool: asked('pool', '.*'), host: asked('host', '.*'), __rate_interval: asked('interval', '15s') };
const theme = createTheme({ colors: { mode: asked('theme', 'dark') } });
const timeRange = {
  from: dateTime(start * 1000), to: dateTime(end * 1000), raw: { from: dateTime(start * 1000), to: dateTime(end * 1000) },
};
const CELL = 38; // of Grafana's grid, with its gap
const GAP = 8;

standardTransformersRegistry.setInit(() =>
  [standardTransformers.joinByFieldTransformer, standardTransformers.organizeFieldsTransformer]
    .map((transformation) => ({ id: transformation.id, name: transformation.name, transformation: async () => transformation })));

const option = (path, isCustom) => ({
  id: isCustom ? `custom.${path}` : path, path, isCustom, name: path, process: (value) => value, shouldApply: () => true,
  override: () => null, editor: () => null,
});
const registry = new FieldConfigOptionsRegistry(() => [
  ...['unit', 'min', 'max', 'decimals', 'color', 'thresholds', 'displayName', 'noValue'].map((path) => option(path, false)),
  ...['drawStyle', 'lineInterpolation', 'lineWidth', 'lineStyle', 'fillOpacity', 'gradientMode', 'showPoints', 'pointSize',
    'spanNulls', 'axisSoftMin', 'axisPlacement', 'stacking', 'scaleDistribution', 'thresholdsStyle', 'barAlignment', 'width', 'minWidth',
    'align', 'cellOptions'].map((path) => option(path, true)),
]);

const substitute = (expr) => expr.replace(/\$(pool|host|__rate_interval)\b/g, (_, name) => variables[name]);
const named = (legend, labels) => legend.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => labels[label] ?? '');

async function ask(path, query) {
  const response = await fetch(`${asked('prometheus')}/api/v1/${path}?${new URLSearchParams(query)}`);
  const answer = await response.json();
  if (answer.status !== 'success') {
    throw new Error(answer.error);
  }
  return answer.data.result;
}

const number = (text) => (text === 'NaN' ? null : Number(text));

async function lines(target) {
  const found = await ask('query_range', { query: substitute(target.expr), start, end, step });
  return found.map(({ metric, values }) => {
    const at = new Map(values.map(([instant, value]) => [Math.round(instant * 1000), number(value)]));
    const times = [];
    for (let instant = start; instant <= end; instant += step) {
      times.push(Math.round(instant * 1000));
    }
    return createDataFrame({
      refId: target.refId,
      fields: [
        { name: 'Time', type: FieldType.time, values: times, config: {} },
        {
          name: 'Value', type: FieldType.number, labels: metric, values: times.map((each) => at.get(each) ?? null),
          config: { displayNameFromDS: named(target.legendFormat, metric) },
        },
      ],
    });
  });
}

async function rows(target) {
  const found = await ask('query', { query: substitute(target.expr), time: end });
  const labels = [...new Set(found.flatMap(({ metric }) => Object.keys(metric)))];
  return [createDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: found.map(({ value }) => value[0] * 1000), config: {} },
      ...labels.map((label) => (
        { name: label, type: FieldType.string, values: found.map(({ metric }) => metric[label] ?? ''), config: {} })),
      { name: `Value #${target.refId}`, type: FieldType.number, values: found.map(({ value }) => number(value[1])), config: {} },
    ],
  })];
}

async function frames(panel) {
  let found = (await Promise.all(panel.targets.map(panel.type === 'table' ? rows : lines))).flat();
  if (panel.transformations.length) {
    found = await lastValueFrom(transformDataFrame(panel.transformations, found));
  }
  const fieldConfig = structuredClone(panel.fieldConfig);
  fieldConfig.defaults.thresholds.steps[0].value = -Infinity; // JSON has none
  const shown = applyFieldOverrides({
    data: found, fieldConfig, fieldConfigRegistry: registry, theme, timeZone: 'utc', replaceVariables: (text) => text,
  });
  cacheFieldDisplayNames(shown);
  return shown;
}

function Stat({ data, panel, width, height }) {
  const field = data[0]?.fields.find(({ type }) => type === FieldType.number);
  const last = field?.values.findLast((value) => value !== null);
  const value = field ? field.display(last) : { text: 'No data', numeric: NaN };
  const sparkline = field && { y: field, x: data[0].fields[0] };
  return <BigValue value={{ ...value, title: undefined }} sparkline={sparkline} theme={theme} width={width} height={height}
    {...panel.options} />;
}

function Content({ data, panel, width, height }) {
  if (panel.type === 'stat') {
    return <Stat {...{ data, panel, width, height }} />;
  }
  if (panel.type === 'table') {
    return <TableNG data={data[0]} width={width} height={height} cellHeight={panel.options.cellHeight} noHeader={false}
      initialSortBy={panel.options.sortBy} enableVirtualization={false} structureRev={1} fieldConfig={panel.fieldConfig}
      getActions={() => []} />;
  }
  if (!data.length) {
    return <div style={{ color: theme.colors.text.secondary, textAlign: 'center', paddingTop: height / 2 - 20 }}>No data</div>;
  }
  return <TimeSeries frames={data} structureRev={1} timeRange={timeRange} timeZone="utc" width={width} height={height}
    legend={panel.options.legend} options={panel.options} />;
}

function Dashboard({ panels }) {
  const unit = (width - GAP) / 24;
  const top = Math.min(...panels.map(({ gridPos }) => gridPos.y));
  const bottom = Math.max(...panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  return (
    <div style={{ position: 'relative', width, height: (bottom - top) * CELL + GAP, background: theme.colors.background.canvas }}>
      {panels.map((panel) => {
        const { x, y, w, h } = panel.gridPos;
        const place = { position: 'absolute', left: GAP + x * unit, top: GAP + (y - top) * CELL };
        if (panel.type === 'row') {
          return (
            <div key={panel.id} style={{ ...place, lineHeight: '30px', fontWeight: 500, color: theme.colors.text.primary }}>
              <Icon name="angle-down" /> {panel.title}
            </div>);
        }
        return (
          <div key={panel.id} style={place}>
            <PanelChrome title={panel.title} description={panel.description} width={w * unit - GAP} height={h * CELL - GAP}
              padding={panel.type === 'table' ? 'none' : 'md'}>
              {(innerWidth, innerHeight) =>
                <Content data={panel.data} panel={panel} width={innerWidth} height={innerHeight} />}
            </PanelChrome>
          </div>);
      })}
    </div>);
}

async function main() {
  const dashboard = await (await fetch('dashboard.json')).json();
  const wanted = parameters.get('rows')?.split('|');
  let row = '';
  const panels = dashboard.panels.filter((panel) => {
    row = panel.type === 'row' ? panel.title : row;
    return !wanted || wanted.includes(row);
  });
  // Rows that were left out leave no gap.
  let y = 0;
  let last = null;
  for (const panel of panels) {
    if (last !== null && panel.gridPos.y > last.bottom && panel.type === 'row') {
      y += panel.gridPos.y - last.bottom;
    }
    last = { bottom: Math.max(last?.bottom ?? 0, panel.gridPos.y + panel.gridPos.h) };
    panel.gridPos.y -= y;
  }
  await Promise.all(panels.filter(({ type }) => type !== 'row').map(async (panel) => { panel.data = await frames(panel); }));
  await document.fonts.load('14px "Inter Variable"');
  document.body.style.background = theme.colors.background.canvas;
  createRoot(document.getElementById('root')).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <style>{'body, body * { font-family: "Inter Variable", sans-serif } body { margin: 0; overflow: hidden }'}</style>
      <Dashboard panels={panels} />
    </ThemeContext.Provider>);
}

main().catch((error) => {
  document.body.textContent = `failed: ${error.stack}`;
});
