"""The page's only script: what a curve says under the pointer."""

SCRIPT = """
document.querySelectorAll('figure[data-chart]').forEach(function (figure) {
  var chart = JSON.parse(figure.dataset.chart);
  var svg = figure.querySelector('svg'), cursor = svg.querySelector('.cursor'), tip = figure.querySelector('.tip');
  function show(event) {
    var box = svg.getBoundingClientRect();
    var at = (event.clientX - box.left) * chart.width / box.width;
    var best = null;
    chart.lines.forEach(function (line) {
      line.at.forEach(function (place) {
        if (best === null || Math.abs(place - at) < Math.abs(best - at)) { best = place; }
      });
    });
    if (best === null) { return; }
    tip.textContent = '';
    var rows = [];
    chart.lines.forEach(function (line) {
      var i = line.at.indexOf(best);
      if (i >= 0) { rows.push([line.y[i], line.text[i], line.name, line.colour, line.x[i]]); }
    });
    rows.sort(function (a, b) { return b[0] - a[0]; });
    function add(text, bold) {
      var row = document.createElement(bold ? 'b' : 'div');
      row.textContent = text;
      tip.appendChild(row);
      return row;
    }
    add(chart.xlabel + ' ' + rows[0][4], true);
    rows.forEach(function (row) { add(row[1] + '  ' + row[2]).style.color = 'var(--c' + row[3] + ')'; });
    cursor.setAttribute('x1', best);
    cursor.setAttribute('x2', best);
    cursor.style.visibility = tip.style.visibility = 'visible';
    var left = best * box.width / chart.width;
    tip.style.left = Math.max(0, left < box.width / 2 ? left + 12 : left - tip.offsetWidth - 12) + 'px';
  }
  function hide() { cursor.style.visibility = tip.style.visibility = 'hidden'; }
  svg.addEventListener('pointermove', show);
  svg.addEventListener('pointerdown', show);
  svg.addEventListener('pointerleave', hide);
});
"""
