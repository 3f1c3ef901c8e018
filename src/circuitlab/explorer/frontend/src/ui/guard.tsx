/** A view that cannot be drawn says so, and leaves the others usable. */
import { Component, type ComponentChildren } from "preact";

export class Guard extends Component<{ children: ComponentChildren }, { message: string }> {
  override state = { message: "" };

  override componentDidCatch(error: unknown): void {
    console.error(error);
    this.setState({ message: error instanceof Error ? error.message : String(error) });
  }

  override render() {
    if (this.state.message)
      return (
        <p class="clx-refused" role="alert">
          This view cannot be drawn: {this.state.message}
        </p>
      );
    return this.props.children;
  }
}
