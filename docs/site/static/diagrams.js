// Draws the blocks of mermaid; whoever has no JavaScript reads their text.
for (const block of document.querySelectorAll(".highlight-mermaid")) {
  const diagram = document.createElement("pre");
  diagram.className = "mermaid";
  diagram.style.background = "white";
  diagram.textContent = block.textContent;
  block.replaceWith(diagram);
}
mermaid.initialize({ startOnLoad: false, theme: "neutral" });
mermaid.run();
