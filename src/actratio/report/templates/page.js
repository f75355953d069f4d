(function () {
  "use strict";
  var root = document.documentElement;
  var figures = read("figures");
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  // Only these buttons: plotly's default has one that uploads the chart.
  var buttons = [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]];
  function read(id) {
    var element = document.getElementById(id);
    return element ? JSON.parse(element.textContent) : null;
  }
  function colours() {
    var style = getComputedStyle(root);
    return { text: style.getPropertyValue("--text").trim(), line: style.getPropertyValue("--line").trim() };
  }
  // Plotly lays out a horizontal legend in columns as wide as the longest name. Reserve its height below the axis.
  function legendHeight(figure, width) {
    var names = figure.data.filter(function (t) { return t.name && t.showlegend !== false; }).map(function (t) { return t.name.length; });
    if (!names.length) { return 0; }
    var columns = Math.max(1, Math.floor((width - 20) / (50 + 8 * Math.max.apply(null, names))));
    return 22 * Math.ceil(names.length / columns) + 10;
  }
  // A title that is wider than its axis is broken between words, because plotly would cut it off.
  function wrapped(title, length) {
    var lines = [""];
    title.split(" ").forEach(function (word) {
      var last = lines.length - 1, longer = (lines[last] + " " + word).trim();
      if (lines[last] && longer.length > length) { lines.push(word); } else { lines[last] = longer; }
    });
    return lines;
  }
  function layout(figure, box) {
    var c = colours(), below = legendHeight(figure, box.clientWidth);
    var axis = { gridcolor: c.line, zerolinecolor: c.line, linecolor: c.line, automargin: true };
    var x = Object.assign({}, axis, figure.layout.xaxis), y = Object.assign({}, axis, figure.layout.yaxis);
    var lines = x.title ? wrapped(x.title.text, (box.clientWidth - 90) / 7) : [""];
    if (x.title) { x.title = { text: lines.join("<br>") }; }
    box.style.height = Math.max(400, figure.height || 0) + below + 18 * (lines.length - 1) + "px";
    if (y.title) { y.title = { text: wrapped(y.title.text, 36).join("<br>") }; }
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: c.text, size: 13 }, margin: { l: 10, r: 10, t: 10, b: 55 + below + 18 * (lines.length - 1) },
      legend: { orientation: "h", xref: "container", x: 0, yref: "container", y: 0, yanchor: "bottom" }, hovermode: "closest",
      xaxis: x, yaxis: y, annotations: figure.layout.annotations || []
    };
  }
  function draw() {
    figures.forEach(function (figure) {
      var box = document.getElementById(figure.key);
      Plotly.react(figure.key, figure.data, layout(figure, box), { responsive: true, displaylogo: false, modeBarButtons: buttons });
    });
  }
  // As spreadsheets.py does: an apostrophe keeps a spreadsheet from running text that starts like a formula.
  function asText(value) {
    var number = /^[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?|nan)$/i;
    return /^'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(value) && !number.test(value) ? "'" + value : value;
  }
  // The numbers of a figure, one row a point or a cell.
  function numbers(figure) {
    var title = function (axis) { return axis.title ? axis.title.text : ""; };
    var x = title(figure.layout.xaxis), y = title(figure.layout.yaxis), rows = [];
    figure.data.filter(function (trace) { return trace.meta === "data"; }).forEach(function (trace) {
      if (trace.type === "heatmap") {
        if (!rows.length) { rows.push(["row", x, "value"]); }
        trace.z.forEach(function (line, i) { line.forEach(function (z, j) { rows.push([trace.y[i], trace.x[j], z]); }); });
        return;
      }
      if (!rows.length) { rows.push(y ? ["series", "point", x, y, "low", "high"] : ["series", "row", x, "low", "high"]); }
      trace.x.forEach(function (place, i) {
        var bounds = trace.customdata ? trace.customdata[i] : [], label = trace.text ? trace.text[i] : "";
        rows.push([trace.name, label, place].concat(y ? [trace.y[i]] : [], [bounds[0], bounds[1]]));
      });
    });
    return rows.map(function (row) {
      return row.map(function (cell) {
        if (typeof cell !== "string") { return cell === null || cell === undefined ? "" : String(cell); }
        // plotly's texts are escaped as HTML
        var value = asText(cell.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&"));
        return /[",;\t\r\n]/.test(value) ? '"' + value.replace(/"/g, '""') + '"' : value;
      }).join(",") + "\n";
    }).join("");
  }
  // Blobs are made when they are asked for, from what the page holds: nothing is requested.
  function offer(link, text) {
    link.href = "#";
    link.addEventListener("click", function () {
      link.href = URL.createObjectURL(new Blob([text()], { type: "text/csv" }));
      setTimeout(function () { URL.revokeObjectURL(link.href); link.href = "#"; }, 1000);
    });
  }
  function theme(name) { root.dataset.theme = name; draw(); }
  theme(dark.matches ? "dark" : "light");
  dark.addEventListener("change", function (event) { theme(event.matches ? "dark" : "light"); });
  document.getElementById("theme").addEventListener("click", function () {
    theme(root.dataset.theme === "dark" ? "light" : "dark");
  });
  if (document.getElementById("data")) { offer(document.getElementById("data"), function () { return read("table"); }); }
  document.querySelectorAll("a.numbers").forEach(function (link) {
    offer(link, function () {
      return numbers(figures.find(function (figure) { return figure.key === link.dataset.chart; }));
    });
  });
})();
